"""`exact-error`: the error with a known prompt against the formula, and where the formula stops."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.theory import contextual_mixture, exact_error, in_law, population
from dpt_jax.theory.experiments.base import Experiment, Row, distinct, grid, where
from dpt_jax.theory.experiments.drawing import finish, panels_of
from dpt_jax.theory.experiments.statistics import interval, shown


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes.

    Attributes:
      dim: d.
      length: T.
      share: ζ.
      signal: r0, signal to noise of the mean token, which gives W.
      contexts: Q.
      queries: τ, in units of the best, Q / (2 σ²); the last is beyond where averages over T tokens
        settle.
      ratios: κ = n/d.
      repeats: of each cell.
      seed: of all draws.
    """

    dim: int = 200
    length: int = 1000
    share: float = 0.1
    signal: float = 0.5
    contexts: tuple[float, ...] = (1.0, 2.0)
    queries: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    ratios: tuple[float, ...] = (1.2, 1.5, 2.0, 4.0, 10.0)
    repeats: int = 20
    seed: int = 0


def cells(settings: Settings) -> list[dict[str, Any]]:
    """Signals, queries and ratios; without a query all signals are alike, so only one is taken."""
    return [
        cell
        for cell in grid(context=settings.contexts, query=settings.queries, ratio=settings.ratios)
        if cell["query"] > 0 or cell["context"] == settings.contexts[0]
    ]


@functools.cache
def _measure(count: int):
    def measure(mixture, q, key):
        train_key, test_key = jax.random.split(key)
        labels = contextual_mixture.draw_labels(train_key, count, balanced=True)
        read = in_law.pooled(mixture, train_key, labels, q)
        w = exact_error.least_squares_head(read, labels)
        return in_law.test_error(mixture, test_key, w, q, count=500)

    return jax.jit(measure)


def run(settings: Settings, cell: dict[str, Any]) -> dict[str, Any]:
    """Fits the head for every repeat; the formula beside it."""
    head = settings.signal * math.sqrt((1 - settings.share) / settings.length) / settings.share
    mixture = contextual_mixture.core(
        settings.dim,
        context_norm=cell["context"],
        head_norm=head,
        share=settings.share,
        length=settings.length,
    )
    scales = population.scales_of(mixture)
    query = cell["query"] * cell["context"] / 2
    count = 2 * round(cell["ratio"] * settings.dim / 2)
    signal = population.signal_to_noise(scales, query)
    predicted = exact_error.predicted_error(signal, count / settings.dim)
    q = mixture.context * query / cell["context"]
    measure = _measure(count)
    keys = jax.random.split(jax.random.key(settings.seed), settings.repeats)
    errors = jnp.stack([measure(mixture, q, key) for key in keys])
    return {
        "n": count,
        "errors": errors,
        "signal": signal,
        "predicted": predicted,
        "settles": population.settles(scales, query),
    }


def table(rows: Sequence[Row]) -> Table:
    """Measured and predicted errors, and whether the prediction is in the interval."""
    lines = []
    for row in rows:
        low, _, high = interval(row["errors"])
        lines.append(
            [
                f"{row['context']:g}",
                f"{row['query'] * row['context'] / 2:g}",
                f"{row['ratio']:g}",
                f"{row['settles']:.3g}",
                f"{row['signal']:.3f}",
                shown(row["errors"], 4),
                f"{row['predicted']:.4f}",
                "yes" if low <= row["predicted"] <= high else "no",
                f"{np.mean(row['errors']) - row['predicted']:+.4f}",
            ]
        )
    header = ["Q", "τ", "κ", "exp(4τ²)/(1-ζ)T", "r", "measured", "predicted", "inside"]
    caption = (
        f"Test error of the least-squares head, mean of {len(rows[0]['errors'])} repeats with 95 % "
        "intervals; inside: whether the formula is in the interval."
    )
    return Table([*header, "difference"], lines, 0, caption, [])


def figure(rows: Sequence[Row]) -> Any:
    """Error against n/d: measured points, the formula as lines; a panel for each query."""
    groups = [
        (context, query)
        for context in distinct(rows, "context")
        for query in distinct(rows, "query")
        if where(rows, context=context, query=query)
    ]
    contexts = distinct(rows, "context")
    titles = [f"Q = {c:g}" for c in contexts]
    drawn, axes = panels_of(titles, "test error")
    queries = distinct(rows, "query")
    looks = dict(zip(queries, panels.looks([(str(q),) for q in queries]), strict=True))
    for context, query in groups:
        axis = axes[contexts.index(context)]
        found = where(rows, context=context, query=query)
        label = f"τ = {query:g} Q/2"
        points = [(r["ratio"], *interval(r["errors"])) for r in found]
        panels.line(axis, points, looks[query], label, style="", bars=True)
        said = [(r["ratio"], r["predicted"]) for r in found]
        axis.plot(*zip(*said, strict=True), color=looks[query][0], linestyle=":", linewidth=1.5)
    for axis in axes:
        panels.x_values(axis, distinct(rows, "ratio"), log=True)
        axis.set_ylim(0, 0.5)
        axis.set_xlabel("n/d")
    return finish(drawn, EXPERIMENT.title, "bars: 95 % intervals of the mean; dotted: the formula")


EXPERIMENT = Experiment(
    "exact-error",
    "The head by least squares where the prompt is known",
    Settings(),
    {"repeats": 100, "dim": 400, "length": 4000},
    cells,
    run,
    table,
    figure,
)
