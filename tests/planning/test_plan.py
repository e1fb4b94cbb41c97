"""Compiling a run ahead of time: memory, costs and meshes, on virtual devices and on TPUs."""

import dataclasses
import importlib.util
import json

import jax
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh

from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.models import T5Config
from dpt_jax.planning import ahead_of_time, plan
from dpt_jax.planning.tpus import parse_topology
from dpt_jax.prompts import DecomposedPrompt
from tests.support import compiled_meshes, processes, runs

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu not installed: pip install 'dpt-jax[tpu]'",
)
# T5 1.0 11B, but for its depth, which weights alone depend on here.
T5_11B = T5Config(
    vocab_size=32128,
    emb_dim=1024,
    num_heads=128,
    num_encoder_layers=24,
    num_decoder_layers=24,
    head_dim=128,
    mlp_dim=65536,
    logits_via_embedding=True,
    dtype="bfloat16",
)


def large_config(**changes):
    fields = {
        "model": T5_11B,
        "prompt": DecomposedPrompt(100, 1024, 10),
        "frozen_dtype": "bfloat16",
    }
    return runs.run_config("", None, **fields | changes)


@pytest.fixture(scope="module")
def compiled():
    done = processes.run("tests.support.compiled_meshes", devices=8)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_device_holds_its_share_of_the_weights(compiled):
    shapes = {name: x.size for name, x in flatten_dict(runs.random_parameters(), sep="/").items()}
    for shape in compiled_meshes.MESHES:
        _, fsdp, model = shape

        def shards(name, fsdp=fsdp, model=model):
            if name.endswith("scale"):
                return fsdp
            return model if name.endswith("rel_embedding") else fsdp * model

        share = sum(4 * size // shards(name) for name, size in shapes.items())
        memory = compiled["x".join(map(str, shape)) + "/1"]["memory"]
        assert memory["frozen_weights"] == share
        # The prompt is whole everywhere: A [4, 2] and B [2, 16].
        assert memory["trained_weights"] == 4 * (4 * 2 + 2 * 16)
        # Three arrays of 16 rows of tokens, split over data and fsdp.
        assert memory["batch"] == 4 * 16 * (64 + 6 + 6) // (shape[0] * fsdp)


@pytest.mark.slow
def test_the_work_of_a_step_is_shared_and_does_not_depend_on_microbatches(compiled):
    whole = compiled["1x1x1/1"]["flops"]
    for name in ("8x1x1/1", "8x1x1/2", "1x1x8/1", "2x2x2/2"):
        assert compiled[name]["flops"] * 8 == pytest.approx(whole, rel=0.05), name
    assert (
        compiled["8x1x1/2"]["memory"]["temporaries"]
        < (compiled["8x1x1/1"]["memory"]["temporaries"])
    )


@pytest.mark.slow
def test_data_parallel_devices_exchange_the_prompts_gradient_alone(compiled):
    # 40 numbers of the gradient, or the 4 x 16 of the folded prompt's, and a few sums.
    assert 0 < compiled["8x1x1/1"]["collective_bytes"] <= 2 * 4 * (40 + 64 + 8)
    # Four times, forth and back, the encoder's activations are summed over the model axis.
    activations = 2 * 7 / 8 * 4 * 16 * (4 + 64) * 16
    assert compiled["1x1x8/1"]["collective_bytes"] > 3 * activations
    assert set(compiled["1x1x1/1"]["kinds"]) == set()


@pytest.mark.slow
def test_decoding_costs_less_than_training(compiled):
    assert 0 < compiled["decoding"]["flops"] < compiled["2x2x2/1"]["flops"]


@pytest.mark.slow
def test_meshes_divide_the_model_and_hold_its_weights():
    found = set(plan.meshes(large_config(), parse_topology("v5e:4x4")))
    # 22 GB in bfloat16 on chips of 16 GB: four of them leave half of their memory.
    assert found == {(4, 4, 1), (4, 2, 2), (4, 1, 4), (2, 1, 8), (1, 1, 16)}
    assert list(plan.meshes(large_config(), parse_topology("v5e:1x1"))) == []
    three_heads = large_config()
    three_heads = dataclasses.replace(
        three_heads,
        model=dataclasses.replace(T5_11B, num_heads=3, head_dim=32, num_encoder_layers=1),
    )
    assert {m for _, _, m in plan.meshes(three_heads, parse_topology("v5e:4x4"))} == {1}


def test_trained_weights_have_a_gradient_and_the_optimizers_state():
    shapes = flatten_dict(runs.random_parameters(), sep="/")
    count = sum(x.size for x in shapes.values())

    def of(chips, **changes):
        config = runs.run_config("", None, optimizer=optax.adamw, **changes)
        mesh = AbstractMesh((1, chips, 1), partitioning.MESH_AXES)
        return ahead_of_time.weight_bytes(config, mesh)

    # Weight, gradient and Adam's two averages; steps and the random key are a few bytes.
    assert of(1, prompt=None) == pytest.approx(4 * 4 * count, abs=32)
    assert of(2, prompt=None) < 0.6 * of(1, prompt=None)
    # The prompt has A [4, 2] and B [2, 16].
    assert of(1) == pytest.approx(4 * count + 4 * 4 * (4 * 2 + 2 * 16), abs=32)


@pytest.mark.slow
def test_meshes_for_fine_tuning_hold_what_is_kept_of_trained_weights():
    # 45 GB in float32, and as much for the gradient; Adafactor's slots are next to nothing.
    tuned = large_config(prompt=None, optimizer=optax.adafactor)
    found = set(plan.meshes(tuned, parse_topology("v5e:4x4")))
    assert {shape[0] for shape in found} == {1}
    assert (1, 16, 1) in found and (1, 1, 16) in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": optax.scale_by_adam}, "OPTIMIZER"),
        ({"mesh": (1, 1, 8)}, r"MESH = \(1, 1, 8\).*16 devices"),
        ({"mesh": (1, 1, 16), "model": dataclasses.replace(T5_11B, num_heads=24)}, "'heads' axis"),
        ({"mesh": (16, 1, 1), "batch_size": 24}, "BATCH_SIZE = 24 .* 16 batch shards"),
        ({"mesh": (4, 1, 4), "batch_size": 4, "eval_batch_size": 6}, "EVAL_BATCH_SIZE = 6"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_libtpu_is_asked(changes, message, monkeypatch):
    monkeypatch.setattr(ahead_of_time.importlib.util, "find_spec", lambda name: None)
    config = large_config(**{"batch_size": 32} | changes)
    with pytest.raises(InputError, match=message):
        plan.make_plan(config, parse_topology("v5e:4x4"))


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ahead_of_time.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(InputError, match=r"pip install 'dpt-jax\[tpu\]'"):
        plan.make_plan(large_config(batch_size=16, mesh=(1, 1, 16)), parse_topology("v5e:4x4"))


@needs_libtpu
@pytest.mark.slow
def test_a_search_ends_with_a_batch_that_fits_and_names_the_fastest_mesh():
    model = T5Config(
        vocab_size=256,
        emb_dim=512,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=128,
        mlp_dim=16384,
        dropout_rate=0.0,
        dtype="bfloat16",
    )
    config = runs.run_config(
        "",
        None,
        model=model,
        prompt=DecomposedPrompt(4, 512, 2),
        task_feature_lengths={"inputs": 124, "targets": 8},
    )
    said = []
    found, candidates = plan.search(config, parse_topology("v5e:1x1"), said.append, decoding=False)
    assert found.fits and found.train.compiled.memory.total < found.where.chip.usable_hbm_bytes
    assert candidates[0].mesh == found.mesh == (1, 1, 1)
    # It is the largest: little more is refused.
    more = dataclasses.replace(
        found.config, batch_size=int(found.config.batch_size * 1.15), eval_batch_size=None
    )
    assert not plan.make_plan(more, found.where, decoding=False).fits
    assert any("fits" in line for line in said)


@needs_libtpu
@pytest.mark.slow
def test_tpu_memory_and_work_are_those_of_the_shapes():
    config = runs.run_config("", None, mesh=(2, 1, 2), batch_size=16)
    found = plan.make_plan(config, parse_topology("v5e:2x2"))
    weights = sum(4 * x.size for x in jax.tree.leaves(runs.random_parameters()))
    memory = found.train.compiled.memory
    # All but the layer norms, one per sublayer and one per stack, is split in two.
    assert memory.frozen_weights == (weights + 7 * 4 * 16) // 2
    assert found.decoding.compiled.costs.flops > 0
    assert found.train.compiled.costs.collective_bytes > 0
    assert found.tokens_per_second == pytest.approx(found.examples_per_second * (64 + 6))


def test_a_libtpu_of_another_release_than_jaxlib_is_named():
    class Unreadable:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\n*** stack trace ***")

    with pytest.raises(InputError, match="RET_CHECK failure.*pip install 'libtpu") as caught:
        ahead_of_time._text(Unreadable())
    assert "stack" not in str(caught.value)


@needs_libtpu
@pytest.mark.slow
def test_a_tpu_holds_no_scores_and_its_chips_exchange_no_heads():
    model = T5Config(
        vocab_size=256,
        emb_dim=128,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=64,
        mlp_dim=256,
        dtype="bfloat16",
    )
    config = runs.run_config(
        "",
        None,
        model=model,
        prompt=DecomposedPrompt(4, 128, 2),
        task_feature_lengths={"inputs": 150, "targets": 8},
        batch_size=8,
        mesh=(2, 1, 2),
    )
    mesh = plan.partitioning.make_mesh(
        config.mesh, ahead_of_time.tpu_devices(parse_topology("v5e:2x2"))
    )
    compiled = ahead_of_time.compile_train_step(config, mesh)
    # Rows and heads of one chip, and nowhere an array of all their scores.
    assert 'custom_call_target="tpu_custom_call"' in compiled.text
    assert "[4,154,128]" in compiled.text and "[4,2,154,154]" not in compiled.text
    assert set(compiled.costs.by_kind()) == {"all-reduce"}
    # Two products forth and five back, of 4 rows and 2 heads; the kernels say so themselves.
    kernels = [w.flops for w in compiled.costs.work if "_kernel" in w.name]
    assert kernels == [2 * n * 4 * 2 * 154 * 154 * 64 for n in (2, 5)]
