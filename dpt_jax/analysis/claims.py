"""What the paper says, held against the results of a sweep.

A claim is a mapping with a `text` and one comparison:

- `better` and `than`: the average score of the points with the first axis values is above that of
  the points with the second (`by` adds to what it has to exceed, negative to allow for less);
- `falls`: the named curve, such as `positive_entries`, ends below where it starts.

`where` restricts all to points with these axis values. Nothing here judges significance: both
numbers and their deviation over seeds are part of the answer.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dpt_jax.analysis.tables import Cell, Row, average_of
from dpt_jax.errors import InputError

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
      text: the claim.
      verdict: "holds", "does not hold" or "cannot be told".
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
        return _falls(claim, rows)
    one, other = (average_of(_chosen(rows, claim[k]), report) for k in ("better", "than"))
    if one.mean is None or other.mean is None:
        return Verdict(claim["text"], OPEN, "points are missing")
    holds = one.mean > other.mean + claim.get("by", 0)
    numbers = f"{one} against {other}"
    if _overlap(one, other):
        numbers += ", closer than their deviation over seeds"
    return Verdict(claim["text"], HOLDS if holds else FAILS, numbers)


def _chosen(rows: Sequence[Row], values: Mapping[str, Any]) -> list[Row]:
    if rows and (unknown := set(values) - set(rows[0]["axes"])):
        raise InputError(
            f"A claim names {', '.join(sorted(unknown))}, which is no axis of the sweep. Change "
            "sweeps.Report.claims."
        )
    return [row for row in rows if all(row["axes"][k] == v for k, v in values.items())]


def _falls(claim: Mapping[str, Any], rows: Sequence[Row]) -> Verdict:
    named = ((row.get("curves") or {}).get(claim["falls"]) for row in rows)
    curves = [curve[1] for curve in named if curve and curve[1]]
    if not curves:
        return Verdict(claim["text"], OPEN, "points are missing")
    first = statistics.fmean(values[0] for values in curves)
    last = statistics.fmean(values[-1] for values in curves)
    numbers = (
        f"{claim['falls'].replace('_', ' ')}: {first:.1f} at the first evaluation, {last:.1f} "
    )
    return Verdict(
        claim["text"], HOLDS if last < first else FAILS, f"{numbers}at the last, {len(curves)} runs"
    )


def _overlap(one: Cell, other: Cell) -> bool:
    if one.deviation is None or other.deviation is None:
        return False
    assert one.mean is not None and other.mean is not None
    return abs(one.mean - other.mean) < max(one.deviation, other.deviation)
