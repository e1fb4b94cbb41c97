"""Runs trained together reach what each reaches alone, and leave the same folders."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import signal
import types

import jax
import numpy as np
import optax
import pytest

from dpt_jax import run_files
from dpt_jax.data.batches import make_batch
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError, NonFiniteLossError, Stopped
from dpt_jax.models import Transformer
from dpt_jax.prefixes import FreePrefix, SimpleSharedPrefix
from dpt_jax.problems import text
from dpt_jax.problems.folded import fold, folded_model
from dpt_jax.problems.loss import make_loss_fn
from dpt_jax.prompts import DecomposedPrompt, ResidualNorm, VanillaPrompt
from dpt_jax.sweeps import population, population_memory, population_step
from dpt_jax.training import checkpoints, schedules
from dpt_jax.training.optimizers import orthogonal
from dpt_jax.training.problem import Folding
from dpt_jax.training.run import Run
from dpt_jax.training.state import TrainState
from tests.support import processes, runs

# Every point is the first with something changed.
POINTS = {
    "first": {},
    "seed": {"random_seed": 5},
    "rate": {"learning_rate": functools.partial(schedules.constant, peak=0.05)},
    "bottleneck": {"prompt": DecomposedPrompt(runs.PROMPT_LENGTH, runs.WIDTH, 1)},
    "examples": {"mixture_or_task_name": "toy_z"},
    "optimizer": {"optimizer": optax.adafactor, "clip_norm": 0.5, "train_steps": 9},
    "fast": {
        "optimizer": orthogonal,
        "learning_rate": functools.partial(schedules.constant, peak=0.1),
        "prompt": DecomposedPrompt(
            runs.PROMPT_LENGTH,
            runs.WIDTH,
            runs.BOTTLENECK,
            ResidualNorm("A"),
            ResidualNorm("B"),
        ),
        "balanced_batches": True,
    },
}


def config(folder, backbone, point, **changes):
    settings = {"eval_period": 4, "num_buckets": 2} | POINTS[point] | changes
    return runs.run_config(pathlib.Path(folder) / point, backbone, **settings)


def configs(folder, backbone, **changes):
    return [config(folder, backbone, point, **changes) for point in POINTS]


@pytest.fixture(scope="module")
def alone(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    for one in configs(folder, backbone):
        text.train(one, lambda one=one: f"# {one.model_dir}")
    return folder


def lines(model_dir):
    return [
        {k: v for k, v in line.items() if not isinstance(v, float)}
        for line in runs.metrics(model_dir)
    ]


def numbers(model_dir):
    return [v for line in runs.metrics(model_dir) for v in line.values() if isinstance(v, float)]


def paths(model_dir):
    # Orbax names the files in a step at random, TensorBoard by the time.
    found = (p.relative_to(model_dir) for p in model_dir.rglob("*") if "tfevents" not in p.name)
    return {str(p) for p in found if p.parts[0] != "checkpoints" or len(p.parts) < 3}


def assert_same_run(found, expected):
    """Two run folders tell the same, up to rounding."""
    assert paths(found) == paths(expected)
    assert (found / "config.gin").read_text() == (expected / "config.gin").read_text()
    assert json.loads((found / "run.json").read_text()) == json.loads(
        (expected / "run.json").read_text()
    )
    summaries = [run_files.read_summary(folder) for folder in (found, expected)]
    for summary in summaries:
        assert summary.pop("train_seconds") > 0
    assert summaries[0] == summaries[1]
    assert lines(found) == lines(expected)
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-4, atol=1e-5)
    for path in (expected / "predictions").iterdir():
        assert (found / "predictions" / path.name).read_text() == path.read_text()
    for step in checkpoints.Checkpoints(expected).steps():
        exported = [runs.exported(folder, step) for folder in (found, expected)]
        assert exported[0].keys() == exported[1].keys()
        for name, array in exported[0].items():
            np.testing.assert_allclose(array, exported[1][name], rtol=1e-5, atol=5e-5)
        saved = [checkpoints.Checkpoints(f).restore_params(step) for f in (found, expected)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *saved)


@pytest.mark.slow
def test_members_reach_what_each_reaches_alone(backbone, alone, tmp_path, capfd):
    together = configs(tmp_path, backbone)
    texts = [f"# {alone / point}" for point in POINTS]
    summaries = population.train_population(together, texts)
    assert summaries == [run_files.read_summary(one.model_dir) for one in together]
    assert f"{len(POINTS)} runs train together" in capfd.readouterr().err
    for point in POINTS:
        assert_same_run(tmp_path / point, alone / point)

    before = runs.contents(tmp_path)
    assert population.train_population(together, texts) == summaries
    assert "rate is finished: step 12 of 12" in capfd.readouterr().err
    assert runs.contents(tmp_path) == before


def train_and_die(folder, backbone):
    """Kills this process between the savings of two members at step 8."""
    save = checkpoints.Checkpoints.save

    def dying_save(self, state, progress):
        if int(state.step) == 8 and "rate" in str(self.directory):
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, state, progress)

    checkpoints.Checkpoints.save = dying_save  # type: ignore[method-assign]
    population.train_population(configs(folder, backbone), members_at_once=4, width=4)


@pytest.mark.slow
def test_a_killed_population_goes_on_in_chunks_of_members(backbone, alone, tmp_path):
    code = (
        "from tests.sweeps import test_population as t; "
        f"t.train_and_die({str(tmp_path)!r}, {str(backbone)!r})"
    )
    killed = processes.run("-c", code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    latest = {p: checkpoints.Checkpoints(tmp_path / p).latest_step() for p in POINTS}
    assert {latest["first"], latest["rate"]} == {8, 4}

    # Six members in chunks of four, of which some fall into another length bucket than the rest.
    texts = [f"# {alone / point}" for point in POINTS]
    population.train_population(configs(tmp_path, backbone), texts, members_at_once=4, width=4)
    for point in POINTS:
        assert_same_run(tmp_path / point, alone / point)


@pytest.mark.slow
def test_a_signal_saves_every_member_and_each_can_go_on_alone(
    backbone, alone, tmp_path, monkeypatch
):
    chosen = ("seed", "bottleneck")
    together = [config(tmp_path, backbone, point) for point in chosen]
    stack, calls = population_step.stack_batches, []

    def stack_batches(*args):
        calls.append(0)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return stack(*args)

    with monkeypatch.context() as patch:
        patch.setattr(population_step, "stack_batches", stack_batches)
        with pytest.raises(Stopped, match="SIGTERM after saving step 7"):
            population.train_population(together, ["# seed", "# bottleneck"])
    for one, point in zip(together, chosen, strict=True):
        assert checkpoints.Checkpoints(one.model_dir).latest_step() == 7
        text.train(one, lambda point=point: f"# {alone / point}")
        assert_same_run(tmp_path / point, alone / point)


@pytest.mark.slow
def test_dropout_draws_as_it_would_alone(backbone, tmp_path):
    changes = {
        "model": dataclasses.replace(runs.T5, dropout_rate=0.3),
        "microbatches": 2,
        "train_steps": 4,
        "eval_period": 0,
    }
    chosen = ("seed", "bottleneck")
    population.train_population(
        [config(tmp_path / "together", backbone, point, **changes) for point in chosen],
        members_at_once=2,
        width=2,
    )
    for point in chosen:
        text.train(config(tmp_path / "alone", backbone, point, **changes))
        found, expected = (tmp_path / where / point for where in ("together", "alone"))
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-4)
        np.testing.assert_allclose(runs.prompt(found, 4), runs.prompt(expected, 4), atol=1e-5)


# One shape when they are folded.
PREFIXES = {
    "free": {"prefix": FreePrefix(3, ("encoder", "cross")), "random_seed": 2},
    # Its gradient goes through the frozen projections.
    "simple": {"prefix": SimpleSharedPrefix(3, ("encoder", "cross"))},
}


@pytest.mark.slow
def test_prefixes_of_one_folded_shape_train_together_beside_a_prompt(backbone, tmp_path):
    def config_of(where, point):
        folder = tmp_path / where / point
        changes = {"train_steps": 4, "eval_period": 2, "num_buckets": 1}
        return runs.run_config(folder, backbone, **changes | PREFIXES[point])

    texts = [f"# {point}" for point in PREFIXES]
    population.train_population([config_of("together", p) for p in PREFIXES], texts, 2, 2)
    for point in PREFIXES:
        text.train(config_of("alone", point), lambda point=point: f"# {point}")
        assert_same_run(tmp_path / "together" / point, tmp_path / "alone" / point)


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others(backbone, alone, tmp_path):
    together = [config(tmp_path, backbone, point) for point in ("first", "rate")]
    # A rate that is not finite would be refused; two updates by this one are not finite either.
    rising = optax.join_schedules([optax.constant_schedule(r) for r in (0.3, 3e38)], [6])
    together[0] = dataclasses.replace(together[0], learning_rate=lambda steps: rising)
    error, summary = population.train_population(together, ["", f"# {alone / 'rate'}"])
    assert isinstance(error, NonFiniteLossError)
    assert re.search(r"at step \d.*the last good checkpoint is", str(error))
    assert summary == run_files.read_summary(tmp_path / "rate")
    assert checkpoints.Checkpoints(tmp_path / "first").latest_step() == 4
    assert_same_run(tmp_path / "rate", alone / "rate")


@pytest.mark.slow
def test_the_frozen_weights_are_held_once(backbone, tmp_path, monkeypatch):
    made = []

    class Spy(Run):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(population, "Run", Spy)
    short = {"train_steps": 1, "eval_period": 0}
    population.train_population(
        [config(tmp_path, backbone, point, **short) for point in ("first", "bottleneck")]
    )
    assert len(made) == 2
    pointers = {
        tuple(x.unsafe_buffer_pointer() for x in jax.tree.leaves(run.frozen)) for run in made
    }
    assert len(pointers) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_size": 8}, r"they differ in RunConfig\.batch_size"),
        ({"prompt": VanillaPrompt(5, runs.WIDTH)}, "their prompts differ in length"),
        ({"prompt": None}, "trains more than a prompt or a prefix"),
        ({"trainable": ".*"}, "trains more than a prompt or a prefix"),
        ({"prefix": FreePrefix(2)}, "their prefixes differ in PREFIX_LENGTH"),
        ({"model_dir": "first"}, "two of them have the same MODEL_DIR"),
        ({"initial_checkpoint_path": None}, "differ in RunConfig.initial_checkpoint_path"),
    ],
)
def test_what_cannot_be_trained_together_is_said_and_left(
    backbone, tmp_path, monkeypatch, changes, reason
):
    monkeypatch.chdir(tmp_path)
    pair = [runs.run_config("first", backbone), runs.run_config("second", backbone)]
    pair[1] = dataclasses.replace(pair[1], **changes)
    with pytest.raises(InputError, match=f"cannot be trained together: .*{reason}"):
        population.train_population(pair)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bad_input_of_one_member_writes_nothing(backbone, tmp_path):
    pair = [runs.run_config(tmp_path / name, backbone) for name in ("first", "second")]
    pair[1] = dataclasses.replace(pair[1], mixture_or_task_name="toy_y")
    with pytest.raises(InputError, match="toy_y"):
        population.train_population(pair)
    with pytest.raises(InputError, match="members_at_once is 0"):
        population.train_population(pair, members_at_once=0)
    assert list(tmp_path.iterdir()) == []


def test_chunks_hold_every_member_once_and_pad_little():
    lengths = [24, 8, 16, 8, 24, 16, 8]
    chunks = population_step.plan_chunks(lengths, 3)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(7))
    assert [[lengths[i] for i in chunk] for chunk in chunks] == [[8, 8, 8], [16, 16, 24], [24]]

    batches = [{"tokens": np.full((2, n), n, np.int32)} for n in (3, 5)]
    stacked = population_step.stack_batches(batches, 3)["tokens"]
    assert stacked.shape == (3, 2, 5)
    np.testing.assert_array_equal(stacked[0, :, 3:], 0)
    np.testing.assert_array_equal(stacked[1:], 5)


def loss_of(model):
    return make_loss_fn(folded_model(model, runs.PROMPT_LENGTH))


def prompts(*members):
    return {"prompt": {"prompt": np.zeros((*members, runs.PROMPT_LENGTH, runs.WIDTH), np.float32)}}


def blank(rows, source, target):
    return make_batch([], [], rows, source, target)


def chunk_memory(width, sizes):
    gradients = population_step.make_chunk_gradients(loss_of(runs.T5))
    shared = population_step.Shared(prompts(8), np.zeros((8, 2), np.uint32))
    batch = {name: np.ones((width, *x.shape), np.int32) for name, x in blank(*sizes).items()}
    lowered = jax.jit(gradients).lower(
        shared, np.arange(width, dtype=np.int32), runs.random_parameters(), batch
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_activations_grow_with_the_members_of_a_chunk_and_are_estimated():
    sizes = (16, 64, 8)
    one, four = chunk_memory(1, sizes), chunk_memory(4, sizes)
    assert 2 < four / one < 5
    estimate = population_step.activation_bytes(
        loss_of(runs.T5), prompts(), runs.random_parameters(), blank(*sizes)
    )
    assert 0.3 < estimate / one < 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "asked", "dropout", "expected"),
    [
        (100, {}, 0.0, (1, 2)),
        (1.5, {}, 0.0, (1, 1)),
        (0.0, {}, 0.0, (1, 1)),
        (0.0, {"members_at_once": 3, "width": 3}, 0.0, (3, 1)),
        (100, {"members_at_once": 4, "width": 2}, 0.0, (2, 2)),
        (100, {"members_at_once": 9, "width": 9}, 0.0, (5, 1)),
        (100, {"members_at_once": 3, "width": 3}, 0.1, (1, 3)),
    ],
)
def test_as_many_members_at_once_as_memory_has_room_for(
    monkeypatch, room, asked, dropout, expected
):
    model = dataclasses.replace(runs.T5, dropout_rate=dropout)
    blanks = [blank(16, source, 8) for source in (16, 24)]
    loss_fn, frozen = loss_of(model), runs.random_parameters()
    folding = Folding(lambda trained, frozen: trained, loss_fn, blanks, dropout > 0)
    member = types.SimpleNamespace(
        config=runs.run_config("x", "y", model=model),
        problem=types.SimpleNamespace(folding=folding),
        state=types.SimpleNamespace(params=prompts()),
        frozen=frozen,
    )
    each = population_step.activation_bytes(loss_fn, prompts(), frozen, blanks[1])
    monkeypatch.setattr(population_memory, "_cores", lambda: 2)
    monkeypatch.setattr(population_memory, "_free_bytes", lambda mesh: room * each / 0.4)
    layout = population_memory.choose_layout(
        [member] * 5, partitioning.make_mesh(), **{"members_at_once": None, "width": None} | asked
    )
    assert (layout.width, layout.programs) == expected
    assert layout.bytes_each == each


def test_a_member_without_a_batch_stays_as_it_is():
    models = [Transformer(runs.T5, DecomposedPrompt(4, 16, 2))] * 2
    optimizer = optax.sgd(0.1)
    states = tuple(
        TrainState.create(
            {"prompt": jax.jit(model.prompt.initialize)(jax.random.key(i))}, optimizer, i
        )
        for i, model in enumerate(models)
    )
    gradients = {"prompt": {"prompt": np.ones((2, 4, 16), np.float32)}}
    sums = population_step.Sums(np.ones(2), np.ones(2), gradients)
    folds = [functools.partial(fold, model) for model in models]
    update = jax.jit(population_step.make_update(folds, [optimizer] * 2))
    (first, second), _, _ = update(states, {}, (sums,), np.arange(2), np.array([True, False]))
    assert (first.step, second.step) == (1, 0)
    before = jax.device_get(states[1].params["prompt"])
    jax.tree.map(np.testing.assert_array_equal, second.params["prompt"], before)
    # A gradient of ones with respect to A @ B.
    a, b = (np.asarray(states[0].params["prompt"][name]) for name in "AB")
    expected = a - 0.1 * np.ones((4, 16)) @ b.T
    np.testing.assert_allclose(first.params["prompt"]["A"], expected, rtol=1e-5)
