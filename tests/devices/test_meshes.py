"""Training on 8 virtual devices gives what one device gives, with the parameters split."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.interop.adapters import load_adapter
from dpt_jax.models import Transformer
from dpt_jax.models.network import abstract_variables
from dpt_jax.problems import text
from dpt_jax.training.state import TrainState
from tests.support import meshes, processes, runs


@pytest.mark.slow
def test_every_mesh_trains_as_one_device_does(backbone, one_device, tmp_path):
    done = processes.run("tests.support.meshes", tmp_path, backbone, devices=8)
    assert done.returncode == 0, done.stderr
    shards = json.loads(done.stdout.splitlines()[-1])

    for name in shards:
        runs.same_results(tmp_path / name, one_device, meshes.STEPS)

    embedding, query, mlp = (
        "token_embedder/embedding",  # [vocabulary, embed]
        "encoder/layers_0/attention/query/kernel",  # [embed, heads * head size]
        "encoder/layers_0/mlp/wo/kernel",  # [mlp, embed]
    )
    vocabulary, embed, heads, hidden = 264, runs.WIDTH, 32, 32
    for name, shapes in shards.items():
        _, fsdp, model = map(int, name.split("x"))
        assert shapes[embedding] == [vocabulary // model, embed // fsdp]
        assert shapes[query] == [embed // fsdp, heads // model]
        assert shapes[mlp] == [hidden // model, embed // fsdp]
        # The prompt is whole everywhere.
        assert shapes["prompt/A"] == [4, 2]
        assert shapes["prompt/B"] == [2, 16]


@pytest.mark.slow
def test_a_prefix_trains_on_a_mesh_as_on_one_device(backbone, tmp_path):
    done = processes.run("tests.support.meshes", tmp_path, backbone, "prefix", devices=8)
    assert done.returncode == 0, done.stderr
    one = tmp_path / "one"
    text.train(meshes.prefix_config(one, backbone, (1, 1, 1)))
    (name, shapes), *_ = json.loads(done.stdout.splitlines()[-1]).items()
    # Its keys and values are where the heads are, [layers, length, heads, head size].
    assert (name, shapes["prefix/cross_keys"]) == ("2x2x2", [1, 3, 4, 4])
    for ours, theirs in zip(runs.metrics(tmp_path / name), runs.metrics(one), strict=True):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-5)
    ours, theirs = (load_adapter(folder).prefix.arrays for folder in (tmp_path / name, one))
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 1), (-1, -1, 1), (1, 1), (0, 1, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_make_the_devices_is_refused(shape):
    with pytest.raises(InputError, match="MESH"):
        partitioning.make_mesh(shape, jax.devices()[:1])


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    mesh = AbstractMesh((4, 2, 1), partitioning.MESH_AXES)
    partitioning.check_batch("BATCH_SIZE", 16, mesh)
    with pytest.raises(InputError, match="BATCH_SIZE = 12 .* 8 batch shards"):
        partitioning.check_batch("BATCH_SIZE", 12, mesh)
    with pytest.raises(InputError, match="MICROBATCHES = 4"):
        partitioning.check_batch("BATCH_SIZE", 16, mesh, microbatches=4)


def test_a_mesh_that_does_not_divide_the_model_names_the_parameter():
    variables = abstract_variables(Transformer(runs.T5))
    mesh = AbstractMesh((1, 1, 5), partitioning.MESH_AXES)
    with pytest.raises(InputError, match="5 model shards.*shape"):
        partitioning.parameter_shardings(variables, mesh)


@pytest.mark.parametrize(
    ("sizes", "axis"),
    # The heads' own size makes 32 of 8 heads, which 16 divides; the heads it does not.
    [
        ({"num_heads": 8, "mlp_dim": 32}, "8 of the 'heads' axis"),
        ({"mlp_dim": 24, "num_heads": 16}, "24 of the 'mlp' axis"),
    ],
)
def test_a_model_axis_that_does_not_divide_heads_or_mlp_is_refused(sizes, axis):
    config = dataclasses.replace(runs.T5, vocab_size=256, **sizes)
    variables = abstract_variables(Transformer(config))
    mesh = AbstractMesh((1, 1, 16), partitioning.MESH_AXES)
    with pytest.raises(InputError, match=f"16 model shards, which do not divide the {axis}"):
        partitioning.parameter_shardings(variables, mesh)


def test_optimizer_slots_live_where_their_parameters_do():
    variables = abstract_variables(Transformer(runs.T5))
    mesh = AbstractMesh((2, 2, 2), partitioning.MESH_AXES)
    shardings = partitioning.parameter_shardings(variables, mesh)
    assert shardings["token_embedder"]["embedding"].spec == PartitionSpec("model", "fsdp")
    optimizer = optax.adamw(0.1)
    create = functools.partial(TrainState.create, optimizer=optimizer, seed=0)
    state = jax.eval_shape(lambda params: create(params), variables["params"])
    placed = partitioning.state_shardings(state, shardings, optimizer, mesh)
    adam = placed.opt_state[0]
    assert placed.params == adam.mu == adam.nu == shardings
    assert adam.count.spec == placed.step.spec == PartitionSpec()
