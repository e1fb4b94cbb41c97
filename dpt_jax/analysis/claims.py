"""What the paper says, held against the results of a sweep.

A claim is a mapping with a `text` and one comparison:

- `better` and `than`: the average score of the points with the first axis values is above that of
  the points with the second (`by` adds to what it has to exceed, negative to allow for less);
- `falls`: the named curve, such as `positive_entries`, ends below where it starts.

`where` restricts all to points with these axis values.

A claim is decided by the difference of its two sides for each seed, and the mean of these. Where
the 95 % bootstrap interval of that mean (`bootstrap_interval`) is on one side of 0, the claim holds
or does not hold; otherwise it is undecided, as it is with one seed.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpt_jax.analysis.tables import Row, average_of, averages_of, axes_of
from dpt_jax.errors import InputError

HOLDS, FAILS, UNDECIDED, OPEN = "holds", "does not hold", "undecided", "cannot be told"

_LEVEL, _RESAMPLES = 0.95, 10_000


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
      text: the claim.
      verdict: "holds", "does not hold", "undecided", or "cannot be told" where points are missing.
      numbers: what was compared.
    """

    text: str
    verdict: str
    numbers: str


def judge(claim: Mapping[str, Any], rows: Sequence[Row], report: Mapping[str, Any]) -> Verdict:
    """Compares what a claim names.

    Raises:
      InputError: for a claim that is not written as this module says.
    """
    kind = {"better", "falls"} & set(claim)
    known = {"text", "where", "better", "than", "by", "falls"}
    if "text" not in claim or len(kind) != 1 or ("better" in claim) != ("than" in claim):
        raise InputError(
            f"The claim {dict(claim)} has not a text and either better and than, or falls. Change "
            "sweeps.Report.claims."
        )
    if unknown := set(claim) - known:
        raise InputError(
            f"The claim {claim['text']!r} has {', '.join(sorted(unknown))}; it takes "
            f"{', '.join(sorted(known))}. Change sweeps.Report.claims."
        )
    rows = _chosen(rows, claim.get("where", {}))
    if "falls" in claim:
        return _falls(claim, rows, report)
    sides = [_chosen(rows, claim[k]) for k in ("better", "than")]
    one, other = (averages_of(side, report) for side in sides)
    paired = [one[seed] - other[seed] for seed in one if seed in other]
    if not paired:
        return Verdict(claim["text"], OPEN, "points are missing")
    verdict, shown = _decided(paired, claim.get("by", 0))
    cells = [average_of(side, report) for side in sides]
    return Verdict(claim["text"], verdict, f"{cells[0]} against {cells[1]}; difference {shown}")


def bootstrap_interval(
    values: Sequence[float], level: float = _LEVEL, resamples: int = _RESAMPLES
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3. The resamples are
    the same in every call. With few values the interval is too narrow rather than too wide.

    Args:
      values: one or more numbers; of a paired comparison, the differences.
      level: the share of the resampled means that lie inside.
      resamples: how often the values are drawn anew, with replacement.
    """
    array = np.asarray(values, float)
    drawn = np.random.default_rng(0).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _decided(differences: Sequence[float], by: float) -> tuple[str, str]:
    """Whether the mean of differences is above `by`; and the mean with its interval, as text."""
    mean = f"{statistics.fmean(differences):.2f}"
    if len(differences) < 2:
        return UNDECIDED, f"{mean}, one seed"
    low, high = bootstrap_interval(differences)
    verdict = HOLDS if low > by else FAILS if high < by else UNDECIDED
    return verdict, f"{mean}, from {low:.2f} to {high:.2f} ({len(differences)} seeds)"


def _chosen(rows: Sequence[Row], values: Mapping[str, Any]) -> list[Row]:
    if rows and (unknown := set(values) - set(rows[0]["axes"])):
        raise InputError(
            f"A claim names {', '.join(sorted(unknown))}, which is no axis of the sweep. Change "
            "sweeps.Report.claims."
        )
    return [row for row in rows if all(row["axes"][k] == v for k, v in values.items())]


def _falls(claim: Mapping[str, Any], rows: Sequence[Row], report: Mapping[str, Any]) -> Verdict:
    seeds: dict[tuple, list[list[float]]] = {}
    for row in rows:
        _, values = (row.get("curves") or {}).get(claim["falls"]) or ([], [])
        if values:
            seeds.setdefault(axes_of(row, report["seeds"]), []).append(values)
    if not seeds:
        return Verdict(claim["text"], OPEN, "points are missing")
    runs = [curve for of_seed in seeds.values() for curve in of_seed]
    first, last = (statistics.fmean(values[place] for values in runs) for place in (0, -1))
    falls = [statistics.fmean(v[0] - v[-1] for v in of_seed) for of_seed in seeds.values()]
    verdict, shown = _decided(falls, 0)
    return Verdict(
        claim["text"],
        verdict,
        f"{claim['falls'].replace('_', ' ')}: {first:.1f} at the first evaluation, {last:.1f} at "
        f"the last, {len(runs)} runs; fall {shown}",
    )
