"""`sharing-rates`: how fast a prefix is estimated, by what it shares and prompts to spare."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dpt_jax.analysis import panels
from dpt_jax.analysis.tables import Table
from dpt_jax.theory import least_squares, prefix_regression, voronoi
from dpt_jax.theory.experiments.base import Experiment, Row, distinct, grid, where
from dpt_jax.theory.experiments.drawing import finish, panels_of
from dpt_jax.theory.experiments.statistics import slope
from dpt_jax.theory.prefix_regression import STRUCTURES, Prompts

# What is measured of a fit, and what it is called.
WHAT = {
    "prediction": "prediction",
    "d1": "D1 (r = 1)",
    "d1_squared": "D1 (r = 2)",
    "d2": "D2",
    "d3": "D3",
    "mean_value": "cell's mean value",
}
_CHUNK = 256
_SCALE = 0.8
_WIDTH = 2.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes.

    Attributes:
      dim: d.
      experts: N, known experts.
      true: L, true prompts.
      fitted: L', fitted prompts.
      sizes: n.
      noise: standard deviation of the noise in every output.
      starts: random starts on the first points, the best of which is then fitted to all.
      first_points: how many points those are.
      steps: of L-BFGS.
      repeats: of each cell.
      seed: of experts, truth, data and starts.
    """

    dim: int = 3
    experts: int = 4
    true: int = 2
    fitted: tuple[int, ...] = (2, 3)
    sizes: tuple[int, ...] = (100, 164, 269, 442, 725, 1190, 1951, 3200)
    noise: float = 0.1
    starts: int = 2
    first_points: int = 256
    steps: int = 100
    repeats: int = 20
    seed: int = 0


def cells(settings: Settings) -> list[dict[str, Any]]:
    """Truth, model, fitted prompts and points."""
    for fitted in settings.fitted:
        prefix_regression.check_sizes(settings.true, fitted, min(settings.sizes))
    return grid(truth=STRUCTURES, model=STRUCTURES, fitted=settings.fitted, n=settings.sizes)


class _World:
    """The experts, the three truths and the data of every repeat; the same for all cells."""

    def __init__(self, settings: Settings):
        base = jax.random.key(settings.seed)
        expert_key, truth_key, data_key, test_key = jax.random.split(base, 4)
        dim = settings.dim
        self.experts = prefix_regression.draw_experts(expert_key, settings.experts, dim)
        self.truths = {}
        for structure in STRUCTURES:
            params = prefix_regression.draw_params(truth_key, structure, settings.true, dim, _SCALE)
            prompts = prefix_regression.prompts_of(structure, params, self.experts)
            self.truths[structure] = (params, prompts)
        self.most = -(-max(settings.sizes) // _CHUNK) * _CHUNK
        keys = jax.random.split(data_key, (settings.repeats, 2))
        points = (settings.repeats, dim, self.most)
        draw = jax.vmap(
            lambda key: jax.random.uniform(key, points[1:], minval=-_WIDTH, maxval=_WIDTH)
        )
        self.x = draw(keys[:, 0])
        self.noise = settings.noise * jax.vmap(lambda key: jax.random.normal(key, points[1:]))(
            keys[:, 1]
        )
        self.known = jax.jit(jax.vmap(self._known))(self.x)
        self.test_x = jax.random.uniform(test_key, (dim, 4096), minval=-_WIDTH, maxval=_WIDTH)
        self.test_known = self._known(self.test_x)

    def _known(self, x):
        return prefix_regression.known_part(self.experts, x)

    def targets(self, truth: str) -> jax.Array:
        """What every repeat observes."""
        prompts = self.truths[truth][1]
        means = jax.vmap(
            lambda known, x: prefix_regression.predict(self.experts, known, prompts, x)
        )
        return means(self.known, self.x) + self.noise


@functools.cache
def _world(settings: Settings) -> _World:
    return _World(settings)


def _example(settings: Settings, model: str, fitted: int) -> dict[str, jax.Array]:
    key = jax.random.key(0)
    return prefix_regression.draw_params(key, model, fitted, settings.dim, _SCALE)


@functools.cache
def _fitter(settings: Settings, model: str, fitted: int):
    """Fits all repeats side by side; compiled once for every truth and every n."""
    world = _world(settings)
    _, unravel = ravel_pytree(_example(settings, model, fitted))

    def fit(x, y, known, count, start):
        def loss(params, points):
            x, y, known = points
            prompts = prefix_regression.prompts_of(model, unravel(params), world.experts)
            return ((y - prefix_regression.predict(world.experts, known, prompts, x)) ** 2).sum(0)

        mean = least_squares.mean_over_points(loss, (x, y, known), count, _CHUNK)
        return least_squares.minimize(mean, start, settings.steps)

    return jax.jit(jax.vmap(fit, (0, 0, 0, None, 0))), unravel


def _near_truth(settings: Settings, cell: dict[str, Any]) -> dict[str, jax.Array]:
    """The truth, its first prompt as often as there are prompts to spare, weights shared out."""
    params = dict(_world(settings).truths[cell["truth"]][0])
    spare = cell["fitted"] - settings.true
    rows = np.asarray([*range(settings.true), *[0] * spare])
    near = {name: leaf[rows] for name, leaf in params.items()}
    weight = jnp.where(jnp.asarray(rows) == 0, jnp.log(1.0 + spare), 0.0)
    near["biases"] -= weight
    return near


def run(settings: Settings, cell: dict[str, Any]) -> dict[str, Any]:
    """Fits all repeats from several starts, near the truth too where the model holds it."""
    world = _world(settings)
    fit, unravel = _fitter(settings, cell["model"], cell["fitted"])
    targets = jax.jit(world.targets, static_argnums=0)(cell["truth"])
    key = jax.random.fold_in(jax.random.key(settings.seed), cell["fitted"])
    first, count = min(cell["n"], settings.first_points), cell["n"]
    tried = []
    for number in range(settings.starts):
        keys = jax.random.split(jax.random.fold_in(key, number), settings.repeats)
        start = jax.vmap(
            lambda key: ravel_pytree(
                prefix_regression.draw_params(
                    key, cell["model"], cell["fitted"], settings.dim, _SCALE
                )
            )[0]
        )(keys)
        if number == 0 and cell["model"] == cell["truth"]:
            near, _ = ravel_pytree(_near_truth(settings, cell))
            start = near + 0.1 * start
        tried.append(fit(world.x, targets, world.known, first, start))
    losses = jnp.stack([loss for _, loss in tried])
    best = jnp.nanargmin(losses, axis=0)
    start = jnp.stack([params for params, _ in tried])[best, jnp.arange(settings.repeats)]
    params, loss = fit(world.x, targets, world.known, count, start)
    prompts = jax.vmap(
        lambda p: prefix_regression.prompts_of(cell["model"], unravel(p), world.experts)
    )(params)
    measured = jax.jit(jax.vmap(lambda p: _measure(world, cell["truth"], p)))(prompts)
    if cell["model"] == cell["truth"] == "simple":
        # Both are p; D2 is of p alone.
        true = world.truths["simple"][1]
        measured["d2"] = jax.vmap(lambda p: voronoi.d2(p.keys, p.biases, true.keys, true.biases))(
            prompts
        )
    return {**measured, "loss": loss}


def _measure(world: _World, truth: str, fitted: Prompts) -> dict[str, jax.Array]:
    true = world.truths[truth][1]
    predict = functools.partial(prefix_regression.predict, world.experts, world.test_known)
    missed = predict(fitted, world.test_x) - predict(true, world.test_x)
    return {
        "prediction": jnp.sqrt((missed**2).sum(axis=0).mean()),
        "d1": voronoi.d1(fitted, true),
        "d1_squared": voronoi.d1(fitted, true, power=2.0),
        "d3": voronoi.d3(fitted, true),
        "mean_value": voronoi.mean_value_error(fitted, true),
    }


def table(rows: Sequence[Row]) -> Table:
    """Slopes against n, and the medians at the largest n."""
    names = [name for name in WHAT if name != "d2"]
    header = ["truth", "model", "L'"]
    for name in names:
        header += [f"{WHAT[name]}: slope", "at the largest n"]
    lines, notes = [], []
    for cell in grid(
        truth=distinct(rows, "truth"),
        model=distinct(rows, "model"),
        fitted=distinct(rows, "fitted"),
    ):
        found = where(rows, **cell)
        line = [cell["truth"], cell["model"], f"{cell['fitted']}"]
        for name in names:
            line += [_slope_text(found, name), f"{np.median(found[-1][name]):.3f}"]
        lines.append(line)
        if "d2" in found[0]:
            notes.append(
                f"D2, truth and model simple, L' = {cell['fitted']}: slope "
                f"{_slope_text(found, 'd2')}, at the largest n {np.median(found[-1]['d2']):.3f}."
            )
    sizes = distinct(rows, "n")
    caption = (
        f"Slopes of the log of the median over {len(rows[0]['d1'])} repeats against log n, n = "
        f"{min(sizes)} to {max(sizes)}, with 95 % bootstrap intervals, and the medians at n = "
        f"{max(sizes)}. D1, D3 and the mean value are over keys and values."
    )
    return Table(header, lines, 3, caption, notes)


def _slope_text(found: Sequence[Row], name: str) -> str:
    low, fitted, high = slope([r["n"] for r in found], [r[name] for r in found])
    return f"{fitted:.2f} [{low:.2f}, {high:.2f}]"


def figure(rows: Sequence[Row]) -> Any:
    """Prediction error and D1 against n; a column for each truth."""
    truths, models = distinct(rows, "truth"), distinct(rows, "model")
    shown = ("prediction", "d1")
    titles = [f"{WHAT[what]}, truth: {truth}" for what in shown for truth in truths]
    drawn, axes = panels_of(titles, "median error", across=len(truths))
    looks = panels.looks([(model,) for model in models])
    for axis, cell in zip(axes, grid(what=shown, truth=truths), strict=True):
        for model, look in zip(models, looks, strict=True):
            for fitted, style in zip(distinct(rows, "fitted"), ("-", "--", ":"), strict=False):
                found = where(rows, truth=cell["truth"], model=model, fitted=fitted)
                points = [
                    (r["n"], *np.quantile(r[cell["what"]], [0.25, 0.5, 0.75]).tolist())
                    for r in found
                ]
                panels.line(axis, points, look, f"{model}, L' = {fitted}", style=style)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("n")
    return finish(drawn, EXPERIMENT.title, "bands: quartiles of the repeats")


EXPERIMENT = Experiment(
    "sharing-rates",
    "Estimating a prefix of two prompts",
    Settings(),
    {
        "dim": 4,
        "sizes": (100, 268, 720, 1931, 5180, 13895, 37276, 100000),
        "starts": 6,
        "steps": 300,
    },
    cells,
    run,
    table,
    figure,
    precise=True,
)
