"""`separation`: which models reach which error on the discrete model, enumerated."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.theory import contextual_mixture, separation
from dpt_jax.theory.experiments.base import Experiment, Row, distinct, grid, where
from dpt_jax.theory.experiments.drawing import finish, panels_of


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes.

    Attributes:
      dim: d.
      length: T.
      share: ζ.
      correlations: ρ.
      sizes: D, how far irrelevant tokens are shifted.
      oracle: A, the score that the oracle's query gives a relevant token.
      restarts: random starts of every model.
      steps: of Adam.
      rate: its learning rate.
      seed: of the starts.
    """

    dim: int = 10
    length: int = 8
    share: float = 0.25
    correlations: tuple[float, ...] = (0.0, 0.5)
    sizes: tuple[float, ...] = (0.25, 1.0, 2.0, 3.0, 4.0, 5.0)
    oracle: float = 0.5
    restarts: int = 50
    steps: int = 300
    rate: float = 0.1
    seed: int = 0


def cells(settings: Settings) -> list[dict[str, Any]]:
    """Rows of shifts, correlations, sizes and models."""
    return grid(
        shifts=separation.ROWS,
        correlation=settings.correlations,
        size=settings.sizes,
        model=separation.MODELS,
    )


@functools.cache
def _trainer(model: str, restarts: int, steps: int, rate: float):
    return jax.jit(
        functools.partial(separation.train, model, restarts=restarts, steps=steps, rate=rate)
    )


def run(settings: Settings, cell: dict[str, Any]) -> dict[str, Any]:
    """Trains a model from many starts; the oracle stands beside prompt-attention."""
    mixture = contextual_mixture.discrete(
        settings.dim,
        context_norm=1.0,
        head_norm=1.0,
        correlation=cell["correlation"],
        share=settings.share,
        length=settings.length,
        shifts=separation.ROWS[cell["shifts"]](cell["size"]),
    )
    tokens, labels, _ = contextual_mixture.enumerate_examples(mixture)
    train = _trainer(cell["model"], settings.restarts, settings.steps, settings.rate)
    errors = train(tokens, labels, jax.random.key(settings.seed))
    found = {
        "floor": separation.floor(cell["model"], cell["shifts"], cell["size"], settings.share),
        "errors": errors,
        "best": errors.min(),
        "solved": (errors == 0).mean(),
    }
    if cell["model"] == "prompt-attention":
        w, q = separation.oracle_prompt(mixture, settings.oracle)
        found["oracle"] = separation.error(cell["model"], {"w": w, "q": q}, tokens, labels)
        found["oracle_right"] = separation.oracle_margin(mixture, settings.oracle) > 0
    if cell["model"] == "self-attention":
        scores = jnp.linspace(-60.0, 60.0, 24001)
        found["most"] = separation.self_attention_coefficient(
            scores, cell["size"], settings.share
        ).max()
    return found


def table(rows: Sequence[Row]) -> Table:
    """Floor, best error and how often it is 0, at the smallest size from 1 on and the largest."""
    sizes = distinct(rows, "size")
    chosen = [min(s for s in sizes if s >= 1), max(sizes)]
    header = ["shifts", "model", "ρ"]
    for size in chosen:
        header += [f"D = {size:g}: floor", "best", "starts at 0"]
    lines = []
    for shifts in distinct(rows, "shifts"):
        for model in distinct(rows, "model"):
            for rho in distinct(rows, "correlation"):
                line = [shifts, model, f"{rho:g}"]
                for size in chosen:
                    [row] = where(rows, shifts=shifts, model=model, correlation=rho, size=size)
                    line += [f"{row['floor']:.3f}", f"{row['best']:.3f}", f"{row['solved']:.0%}"]
                lines.append(line)
    under = sum(row["best"] < row["floor"] - 1e-9 for row in rows)
    oracle = [row for row in rows if "oracle" in row]
    right = sum((row["oracle"] == 0) == row["oracle_right"] for row in oracle)
    scanned = [row for row in rows if "most" in row and row["shifts"] == "(0,0), (D,D)"]
    last = max((row["size"] for row in scanned if row["most"] > 0), default=0)
    notes = [
        f"{under} of {len(rows)} cells are under their floor.",
        f"The oracle prompt is right exactly where the condition says so in {right} of "
        f"{len(oracle)} cells.",
        f"With shifts (0,0), (D,D) a score exists with which self-attention is right up to D = "
        f"{last:g} of the sizes, by a scan of all scores.",
    ]
    caption = (
        f"Error over all (label, shift), exact; best of {len(rows[0]['errors'])} random starts, "
        "and the share of starts that reach 0. A floor of 0 says nothing."
    )
    return Table(header, lines, 3, caption, notes)


def figure(rows: Sequence[Row]) -> Any:
    """The best error against the size of the shifts, and the floors dashed."""
    titles, models = distinct(rows, "shifts"), distinct(rows, "model")
    drawn, axes = panels_of([f"shifts {t}" for t in titles], "error, best start")
    looks = panels.looks([(model,) for model in models])
    rho = distinct(rows, "correlation")[-1]
    for axis, shifts in zip(axes, titles, strict=True):
        for place, (model, look) in enumerate(zip(models, looks, strict=True)):
            found = where(rows, shifts=shifts, model=model, correlation=rho)
            nudge = 0.006 * (place - 2)  # Lines of equal errors would hide each other.
            points = [(r["size"], *(r["best"] + nudge,) * 3) for r in found]
            panels.line(axis, points, look, model)
            floors = [(r["size"], r["floor"] + nudge) for r in found if r["floor"]]
            if floors:
                axis.plot(*zip(*floors, strict=True), color=look[0], linestyle=":", linewidth=2.5)
        axis.set_ylim(-0.04, 0.6)
        axis.set_xlabel("D")
    return finish(
        drawn,
        EXPERIMENT.title,
        f"ρ = {rho:g}; dotted: floors; lines are moved apart by 0.006",
    )


EXPERIMENT = Experiment(
    "separation",
    "What each model reaches on the discrete mixture",
    Settings(),
    {"restarts": 400, "steps": 2000},
    cells,
    run,
    table,
    figure,
    precise=True,
)
