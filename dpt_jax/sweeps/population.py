"""Several runs trained together: one copy of the frozen weights, one set of compiled programs.

Points of a sweep that differ in seed, learning rate, bottleneck or the draw of their examples are
runs with the same backbone, and prompts or prefixes of the same folded shape. Alone, each would
start a process's worth of libraries, read the data, and compile the same programs. Together they do
so once, and `population_step` takes the steps of all of them. Each member sees the batches, the
dropout and the optimizer that it would have alone, so its results are those of `trainer.train` up
to rounding, and each keeps a whole run folder of its own: a population that is stopped continues
from those, together or one by one.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpt_jax.devices import agreement, partitioning
from dpt_jax.errors import InputError, NonFiniteLossError, Stopped
from dpt_jax.paths import absolute, as_path
from dpt_jax.prefixes import Prefix
from dpt_jax.problems import kinds
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.progress import Progress
from dpt_jax.sweeps import population_step
from dpt_jax.sweeps.population_memory import Layout, choose_layout
from dpt_jax.training import run_folder, trainer
from dpt_jax.training.config import RunConfig, TrainingConfig
from dpt_jax.training.problem import Problem
from dpt_jax.training.run import Run

# What members must have in common: the backbone, and the shape of its programs.
_SHARED = (
    "model",
    "initial_checkpoint_path",
    "frozen_dtype",
    "mesh",
    "batch_size",
    "microbatches",
)
_OF_KIND: dict[type[TrainingConfig], tuple[str, ...]] = {
    RunConfig: ("z_loss",),
    ImageRunConfig: (
        "data",
        "train_split",
        "resize",
        "image_mean",
        "image_std",
        "prompt_placement",
        "prompt_dropout",
    ),
}
# What becomes of a run: the contents of its `summary.json`, or why it diverged.
End = dict[str, Any] | NonFiniteLossError


def train_population(
    configs: Sequence[TrainingConfig],
    gin_configs: Sequence[str] = (),
    members_at_once: int | None = None,
    width: int | None = None,
) -> list[End]:
    """Trains several runs together, each into its own run folder.

    Runs that are finished stay as they are, others continue where their folders left them. A run
    that diverges leaves the population, and the others go on.

    Args:
      configs: the runs.
      gin_configs: the operative gin configuration of each, to be kept as its `config.gin`.
      members_at_once: how many members' activations are held at a time; None is what the memory
        has room for, and no more than helps.
      width: how many of these one program takes, as one mapped computation, and the rest in
        programs beside it; None is one on a CPU, whose caches hold no more, and all elsewhere.

    Returns:
      The contents of each run's `summary.json`, in order, or the error of one that diverged.

    Raises:
      InputError: where the runs cannot be trained together, or the input of one of them cannot be
        used; nothing is written then.
      Stopped: after SIGTERM or SIGINT, when the state of every run has been saved.
    """
    for name, value in (("members_at_once", members_at_once), ("width", width)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.")
    if reason := why_not_together(configs):
        raise InputError(f"These runs cannot be trained together: {reason}.")
    texts = list(gin_configs) or [""] * len(configs)
    mesh = partitioning.make_mesh(configs[0].mesh)
    problems = _problems(configs, mesh)
    for config, problem, text in zip(configs, problems, texts, strict=True):
        trainer.check(config, problem, functools.partial(str, text))
    with contextlib.ExitStack() as stack:
        stack.enter_context(partitioning.activate(mesh))
        runs: list[Run] = []
        for config, problem, text in zip(configs, problems, texts, strict=True):
            lock = stack.enter_context(run_folder.locked(config.model_dir))
            run_folder.check_identity(config, problem.identity, gin_config=text)
            frozen = runs[0].frozen if runs else None
            runs.append(Run(config, problem, mesh, frozen, lock))
        ends: dict[int, End] = {
            i: run.already_finished() for i, run in enumerate(runs) if run.is_finished()
        }
        left = [i for i in range(len(runs)) if i not in ends]
        for i in left:
            run_folder.begin(configs[i], problems[i], texts[i])
        if left:
            members = [runs[i] for i in left]
            layout = choose_layout(members, mesh, members_at_once, width)
            with agreement.stop_signals() as received:
                found = _Population(members, mesh, layout).train(received)
            ends |= dict(zip(left, found, strict=True))
    return [ends[i] for i in range(len(configs))]


def _problems(configs: Sequence[TrainingConfig], mesh: Mesh) -> list[Problem]:
    """What each run trains; all input is looked at, and what they have in common is read once."""
    first = kinds.prepare(configs[0], mesh)
    return [kinds.prepare(config, like=first).problem() for config in configs]


def why_not_together(configs: Sequence[Any]) -> str | None:
    """Why runs cannot be trained together; None where they can."""
    if agreement.process_count() > 1:
        return "a population is trained by one process"
    first = configs[0]
    if len({type(config) for config in configs}) > 1:
        return "some are runs on images, and others are not"
    for config in configs:
        if _trains_more(config):
            return f"{config.model_dir} trains more than a prompt or a prefix"
    if len({None if c.prompt is None else c.prompt.length for c in configs}) > 1:
        return "their prompts differ in length (PROMPT_LENGTH)"
    if len({_folded_shape(config.prefix) for config in configs}) > 1:
        return (
            "their prefixes differ in PREFIX_LENGTH, PREFIX_STACKS, PREFIX_LAYERS or position_bias"
        )
    for field in (*_SHARED, *_OF_KIND[type(first)]):
        if len({repr(getattr(config, field)) for config in configs}) > 1:
            return f"they differ in {first.KIND}.{field}"
    if first.initial_checkpoint_path is None and len({c.random_seed for c in configs}) > 1:
        return "their random backbones differ (INITIAL_CHECKPOINT_PATH is None)"
    if len({str(absolute(config.model_dir)) for config in configs}) < len(configs):
        return "two of them have the same MODEL_DIR"
    return None


def _trains_more(config: Any) -> bool:
    """Whether a run trains parts of the backbone, of which each member would need its own."""
    if isinstance(config, ImageRunConfig):
        return config.fine_tune != 0
    return config.prompt is None and config.prefix is None or config.trainable is not None


def _folded_shape(prefix: Prefix | None) -> tuple[Any, ...] | None:
    """What two prefixes on one backbone have in common when they fold into the same arrays."""
    if prefix is None:
        return None
    return prefix.length, prefix.stacks, prefix.layers, prefix.position_bias


class _Element:
    """One member's number of an array that may still be computed."""

    def __init__(self, values: jax.Array, index: int):
        self._values, self._index = values, index

    def __float__(self) -> float:
        return float(np.asarray(self._values)[self._index])


class _Voice:
    """A run's `Progress` among those of others: what it says goes out under its name."""

    def __init__(self, progress: Progress, name: str):
        self._progress, self._name = progress, name

    def update(self, done: int, total: int, text: str = "") -> None:
        """Shows nothing: the population shows the mean of its runs."""

    def say(self, text: str) -> None:
        self._progress.say(f"{self._name}: {text}")


class _Population:
    """Runs that take their steps together."""

    def __init__(self, runs: Sequence[Run], mesh: Mesh, layout: Layout):
        self._runs, self._layout = list(runs), layout
        self._frozen = runs[0].frozen
        foldings: list[Any] = [run.problem.folding for run in runs]
        folds = [folding.fold for folding in foldings]
        everywhere = partitioning.replicated(mesh)
        self._batches = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
        self._gradients = jax.jit(
            population_step.make_chunk_gradients(foldings[0].loss_fn, runs[0].config.microbatches),
            out_shardings=everywhere,
        )
        states = tuple(run.state for run in runs)
        self._update = jax.jit(
            population_step.make_update(folds, [run.optimizer for run in runs]),
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda x: x.sharding, states), everywhere, everywhere),
        )
        share = jax.jit(functools.partial(population_step.share, folds), out_shardings=everywhere)
        self._shared = share(states, self._frozen)
        self._compiled: dict[str, Any] = {}
        # A CPU runs what one thread asks for one after the other. With one thread per program they
        # run side by side, and no more of them than the layout says.
        self._threads = concurrent.futures.ThreadPoolExecutor(layout.programs)

    def train(self, received: list[int]) -> list[End]:
        """Trains every run from its own step to its last; gives summaries, or why a run diverged.

        Args:
          received: signals; where there is one, every run is saved and the population stops.
        """
        runs = self._runs
        steps = [int(run.state.step) for run in runs]
        ends: dict[int, End] = {}
        progress = Progress("step", min(steps), unit="steps")
        total_steps = max(run.total_steps for run in runs)
        with contextlib.ExitStack() as stack:
            stack.callback(progress.close)
            stack.enter_context(self._threads)
            self._announce(progress)
            voices = []
            for run, start in zip(runs, steps, strict=True):
                voice = _Voice(progress, as_path(run.config.model_dir).name)
                voice.say(f"continuing from step {start}" if start else "from the start")
                run.open(voice, share=1 / len(runs))
                stack.callback(run.close)
                voices.append(voice)
            rows = np.arange(runs[0].config.batch_size)
            while active := [i for i in range(len(runs)) if i not in ends]:
                metrics = self._step(
                    {i: runs[i].problem.data.batch(steps[i], rows) for i in active}
                )
                stop = bool(received)  # Asked once, so that all runs are saved at this step.
                for i in active:
                    steps[i] += 1
                    found = {name: _Element(values, i) for name, values in metrics.items()}
                    try:
                        runs[i].after_step(steps[i], found, stop)
                    except NonFiniteLossError as e:
                        ends[i] = e
                        voices[i].say(f"{e} The others go on.")
                        continue
                    if runs[i].has_plateaued() or steps[i] >= runs[i].total_steps:
                        ends[i] = runs[i].summary()
                losses = [loss for i in active if (loss := runs[i].loss) is not None]
                if losses and any(steps[i] % runs[i].config.log_period == 0 for i in active):
                    mean = sum(losses) / len(losses)
                    progress.update(max(steps[i] for i in active), total_steps, f"loss {mean:.4f}")
                if stop and len(ends) < len(runs):
                    raise Stopped(received[0], max(steps))
        return [ends[i] for i in range(len(runs))]

    def _announce(self, progress: Progress) -> None:
        frozen = sum(x.size for x in jax.tree.leaves(self._frozen))
        progress.say(
            f"{len(self._runs)} runs train together: {self._layout}; one copy of {frozen:,} frozen "
            "parameters"
        )

    def _step(self, batches: dict[int, dict[str, np.ndarray]]) -> dict[str, jax.Array]:
        """One update of the runs that have a batch; metrics as arrays, a number per run."""
        runs, width = self._runs, self._layout.width
        members = list(batches)
        sizes = [sum(x.size for x in batches[i].values()) for i in members]
        rows, active = np.zeros(len(runs), np.int32), np.zeros(len(runs), bool)
        running: list[concurrent.futures.Future[population_step.Sums]] = []
        for places in population_step.plan_chunks(sizes, width):
            chosen = [members[place] for place in places]
            for i in chosen:
                rows[i], active[i] = len(running) * width + chosen.index(i), True
            stacked = population_step.stack_batches([batches[i] for i in chosen], width)
            chunk = np.asarray([*chosen, *[chosen[-1]] * (width - len(chosen))], np.int32)
            running.append(self._threads.submit(self._sums(chunk, stacked)))
        chunks = [future.result() for future in running]
        # Always as many, so that there is one program however many runs are still trained.
        chunks += [chunks[-1]] * (-(-len(runs) // width) - len(chunks))
        states = tuple(run.state for run in runs)
        states, self._shared, metrics = self._update(
            states, self._frozen, tuple(chunks), rows, active
        )
        for run, state in zip(runs, states, strict=True):
            run.state = state
        return metrics

    def _sums(
        self, members: np.ndarray, batches: dict[str, np.ndarray]
    ) -> Callable[[], population_step.Sums]:
        """The call that gives a chunk's sums; its program is compiled here, under the mesh."""
        key = repr([(name, x.shape) for name, x in batches.items()])
        if key not in self._compiled:
            placed = jax.device_put(batches, self._batches)
            lowered = self._gradients.lower(self._shared, members, self._frozen, placed)
            self._compiled[key] = lowered.compile()

        def call() -> population_step.Sums:
            placed = jax.device_put(batches, self._batches)
            sums = self._compiled[key](self._shared, members, self._frozen, placed)
            # Its activations live as long as it runs, and the thread is the next chunk's.
            return jax.block_until_ready(sums) if self._layout.programs > 1 else sums

        return call
