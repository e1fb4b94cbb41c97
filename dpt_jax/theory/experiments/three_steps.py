"""`three-steps`: what the three steps find, over both signals and the step sizes."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.theory import contextual_mixture, in_law, population, prompt_attention, three_steps
from dpt_jax.theory.contextual_mixture import ContextualMixture
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
      count: n, examples in each split.
      heads: W.
      contexts: Q.
      step_w: η.
      query_factors: the length of q1 in units of the best, Q / (2 σ²).
      steps_w: values of η, tried at the second of the heads and the last but one of the contexts.
      repeats: with statistics drawn in law.
      token_contexts: Q where every token is drawn, and there is full training too.
      token_repeats: of those.
      train_batch: examples in a step of full training.
      train_steps: its steps.
      train_rate: its learning rate.
      batch: examples drawn at once.
      test_count: draws of what the query reads, for a test error.
      seed: of all draws.
    """

    dim: int = 50
    length: int = 500
    share: float = 0.1
    count: int = 500
    heads: tuple[float, ...] = (0.2, 0.3, 0.5, 1.0)
    contexts: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    step_w: float = 1.0
    query_factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    steps_w: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    repeats: int = 20
    token_contexts: tuple[float, ...] = (1.0, 2.0, 3.0)
    token_repeats: int = 3
    train_batch: int = 50
    train_steps: int = 300
    train_rate: float = 0.02
    batch: int = 20
    test_count: int = 500
    seed: int = 0


def cells(settings: Settings) -> list[dict[str, Any]]:
    """The grid of signals, then lines through one of its points, then the runs on tokens."""
    head, context = settings.heads[1], settings.contexts[-2]
    at = {"part": "signals", "factor": 1.0, "step_w": settings.step_w, "draws": "in law"}
    signals = [
        {**at, **cell}
        for cell in grid(
            labels=("balanced", "random"), head=settings.heads, context=settings.contexts
        )
    ]
    point = {**at, "labels": "balanced", "head": head, "context": context}
    return [
        *signals,
        *({**point, "part": "query", "factor": f} for f in settings.query_factors),
        *({**point, "part": "step", "step_w": s} for s in settings.steps_w),
        *(
            {**point, "part": "tokens", "draws": "tokens", "context": c}
            for c in settings.token_contexts
        ),
    ]


def run(settings: Settings, cell: dict[str, Any]) -> dict[str, Any]:
    """Runs the steps for every repeat, and measures what they found."""
    mixture = contextual_mixture.core(
        settings.dim,
        context_norm=cell["context"],
        head_norm=cell["head"],
        share=settings.share,
        length=settings.length,
    )
    three_steps.check_step(mixture, cell["step_w"])
    on_tokens = cell["draws"] == "tokens"
    balanced = cell["labels"] == "balanced"
    three_steps.check_splits(settings.count, settings.batch, balanced)
    repeats = settings.token_repeats if on_tokens else settings.repeats
    keys = jax.random.split(jax.random.key(settings.seed), repeats)
    norm = cell["factor"] * cell["context"] / 2
    measure = _measure(settings, balanced, cell["draws"])
    found = [measure(mixture, key, cell["step_w"], norm) for key in keys]
    if on_tokens:
        train = _full_training(settings)
        for one, key in zip(found, keys, strict=True):
            one["error_full"] = train(mixture, key)
    return {
        **{name: [float(one[name]) for one in found] for name in found[0]},
        "predicted": predicted(settings, mixture, norm, balanced),
    }


def predicted(
    settings: Settings, mixture: ContextualMixture, norm: float, balanced: bool
) -> dict[str, float]:
    """What the formulas say of a cell whose q1 has the length `norm`."""
    scales = population.scales_of(mixture)
    miss_q1 = population.q1_miss(scales, settings.dim, settings.count, balanced)
    # The length has a part along q* and one across it, by the angle between the two.
    along, across = norm / np.sqrt(1 + miss_q1), norm * np.sqrt(miss_q1 / (1 + miss_q1))
    signal = population.signal_to_noise(scales, along, across)
    return {
        "miss_w1": population.w1_miss(scales, settings.dim, settings.count, balanced),
        "miss_q1": miss_q1,
        "attention": population.relevant_attention(scales, along, across),
        "error_debiased": population.head_error(signal, settings.dim, settings.count),
        "settles": population.settles(scales, norm),
    }


@functools.cache
def _measure(settings: Settings, balanced: bool, draws: str):
    def measure(mixture: ContextualMixture, key, step_w, norm):
        steps_key, test_key = jax.random.split(key)
        est = three_steps.three_steps(
            mixture,
            steps_key,
            count=settings.count,
            step_w=step_w,
            query_norm=norm,
            balanced=balanced,
            draws=draws,
            batch=settings.batch,
        )
        best = mixture.context / (2 * mixture.noise**2)
        zero = jnp.zeros_like(est.w1)

        def error(w, q, offset=0.0):
            return in_law.test_error(mixture, test_key, w, q, offset, settings.test_count)

        return {
            "cos_w1": _cosine(est.w1, mixture.head),
            "cos_q1": _cosine(est.q1, mixture.context),
            "attention": in_law.relevant_attention(mixture, test_key, est.q1, settings.test_count),
            "error_w1": error(est.w1, zero),
            "error_w2": error(est.w2, est.q1),
            "error_debiased": error(est.w2, est.q1, est.debiased("mean").offset),
            "error_oracle": error(mixture.head, best),
        }

    return jax.jit(measure)


def _cosine(one, other):
    return one @ other / (jnp.linalg.norm(one) * jnp.linalg.norm(other))


@functools.cache
def _full_training(settings: Settings):
    """Adam on (w, q) from zero, logistic loss, minibatches of the three splits together."""

    def train(mixture: ContextualMixture, key):
        data_key, order_key, test_key = jax.random.split(key, 3)
        total = 3 * settings.count // settings.train_batch * settings.train_batch
        labels = contextual_mixture.draw_labels(data_key, total, balanced=True)
        tokens = contextual_mixture.sample(mixture, data_key, labels)
        optimizer = optax.adam(settings.train_rate)
        params = {name: jnp.zeros_like(mixture.head) for name in ("w", "q")}

        def step(carry, key):
            params, state = carry
            rows = jax.random.choice(key, total, (settings.train_batch,), replace=False)
            gradients = prompt_attention.loss_gradients(
                tokens[rows], labels[rows], params["w"], params["q"], "logistic"
            )
            updates, state = optimizer.update(dict(zip(("w", "q"), gradients, strict=True)), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(order_key, settings.train_steps)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        outputs = jax.vmap(prompt_attention.prompt_attention, (0, None, None))(
            tokens, params["w"], params["q"]
        )
        return in_law.test_error(
            mixture, test_key, params["w"], params["q"], outputs.mean(), settings.test_count
        )

    return jax.jit(train)


def table(rows: Sequence[Row]) -> Table:
    """Angles, attention and errors of every cell, the predictions beside them."""
    header = ["part", "labels", "W", "Q", "η", "length of q1", "tan² w1", "predicted", "tan² q1"]
    header += ["predicted", "attention", "predicted", "error w1", "w2", "debiased", "predicted"]
    header += ["full training", "oracle"]
    lines = []
    for row in rows:
        said = row["predicted"]
        lines.append(
            [
                row["part"],
                row["labels"],
                f"{row['head']:g}",
                f"{row['context']:g}",
                f"{row['step_w']:g}",
                f"{row['factor'] * row['context'] / 2:g}",
                *_beside(miss_of(row, "w1"), said["miss_w1"]),
                *_beside(miss_of(row, "q1"), said["miss_q1"]),
                *_beside(float(np.mean(row["attention"])), said["attention"]),
                *(shown(row[f"error_{name}"]) for name in ("w1", "w2", "debiased")),
                f"{said['error_debiased']:.3f}",
                shown(row["error_full"]) if "error_full" in row else "–",
                f"{np.mean(row['error_oracle']):.3f}",
            ]
        )
    caption = (
        "Means over repeats, errors with 95 % intervals. tan² is that of the root mean square "
        "angle. The part `tokens` draws every token, the others what the tokens come to."
    )
    return Table(header, lines, 2, caption, [])


def miss_of(row: Row, name: str) -> float:
    """tan² of the angle to the truth, by the mean over repeats of the squared cosine."""
    cosine = np.mean(np.square(row[f"cos_{name}"]))
    return float(1 / cosine - 1)


def _beside(measured: float, predicted: float) -> tuple[str, str]:
    return f"{measured:.3f}", f"{predicted:.3f}"


def figure(rows: Sequence[Row]) -> Any:
    """Cosine, attention and errors against Q; error against the length of q1 and against η."""
    head = where(rows, part="query")[0]["head"]
    titles = ["cos², balanced", "cos², random labels", f"error, W = {head:g}"]
    titles += ["debiased error, balanced", "error, length of q1", "error, step η"]
    drawn, axes = panels_of(titles, "", across=3)
    for axis, labels in zip(axes, ("balanced", "random"), strict=False):
        found = where(rows, part="signals", head=head, labels=labels)
        for name, look in zip(("w1", "q1"), panels.looks([("w",), ("q",)]), strict=True):
            points = [
                (r["context"], *interval(np.square(r[f"cos_{name}"]).tolist())) for r in found
            ]
            panels.line(axis, points, look, f"cos² of {name}")
            said = [(r["context"], 1 / (1 + r["predicted"][f"miss_{name}"])) for r in found]
            axis.plot(*zip(*said, strict=True), color=look[0], linestyle=":", linewidth=1.5)
        points = [(r["context"], *interval(r["attention"])) for r in found]
        panels.line(axis, points, panels.looks([("a",), ("b",), ("c",)])[2], "attention")
        axis.set_ylim(0, 1.03)
        axis.set_xlabel("Q")
    names = ("w1", "w2", "debiased", "full", "oracle")
    looks = panels.looks([(n,) for n in names])
    for axis, part, x in (
        (axes[2], "signals", "context"),
        (axes[4], "query", "factor"),
        (axes[5], "step", "step_w"),
    ):
        found = where(rows, part=part, head=head, labels="balanced")
        for name, look in zip(names, looks, strict=True):
            of = where(rows, part="tokens") if name == "full" and part == "signals" else found
            points = [(r[x], *interval(r[f"error_{name}"])) for r in of if f"error_{name}" in r]
            if points:
                panels.line(axis, points, look, f"error, {name}")
        if part == "signals":
            said = [(r[x], r["predicted"]["error_debiased"]) for r in found]
            axis.plot(*zip(*said, strict=True), color=looks[2][0], linestyle=":", linewidth=1.5)
        else:
            panels.x_values(axis, [r[x] for r in found], log=True)
        axis.set_ylim(0, 0.75 if part == "step" else 0.55)
    axes[2].set_xlabel("Q")
    axes[4].set_xlabel("length of q1, in units of Q/2")
    axes[5].set_xlabel("η")
    values = distinct(where(rows, part="signals"), "head")
    for value, look in zip(values, panels.looks([(v,) for v in values]), strict=True):
        found = where(rows, part="signals", head=value, labels="balanced")
        points = [(r["context"], *interval(r["error_debiased"])) for r in found]
        panels.line(axes[3], points, look, f"W = {value:g}")
    axes[3].set_xlabel("Q")
    return finish(drawn, EXPERIMENT.title, "bands: 95 % intervals of the mean; dotted: predicted")


EXPERIMENT = Experiment(
    "three-steps",
    "Three gradient steps on the core model",
    Settings(),
    {"repeats": 100, "token_repeats": 20, "train_steps": 2000},
    cells,
    run,
    table,
    figure,
)
