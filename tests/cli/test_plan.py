"""`dpt plan` from the command line."""

import importlib.util
import json

import pytest

from dpt_jax import gin_utils
from dpt_jax.cli import plan
from dpt_jax.cli.main import main
from dpt_jax.planning.plan import Plan
from dpt_jax.planning.tpus import parse_topology
from dpt_jax.problems import kinds

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu not installed: pip install 'dpt-jax[tpu]'",
)
FILES = [
    f"--gin_file={name}"
    for name in (
        "runs/prompt_train.gin",
        "models/demo.gin",
        "recipes/paper.gin",
        "recipes/tpu.gin",
    )
]
# The keys that other programs may count on.
KEYS = {
    "fits",
    "hbm_bytes_per_chip",
    "hbm_limit_bytes",
    "flops_per_chip",
    "collective_bytes_per_chip",
    "estimated_step_seconds",
    "mesh",
    "batch_size",
}


def run(capfd, *arguments):
    status = main(["plan", *arguments])
    out, err = capfd.readouterr()
    return status, out, err


def test_a_topology_that_does_not_exist_lists_the_known_ones(capfd):
    status, out, err = run(capfd, "--topology=v5e:4x5", *FILES)
    assert (status, out) == (2, "")
    assert "'v5e:4x5'" in err and "v5e:4x4" in err and "16x16" in err and "v6e:" in err


def test_without_gin_files_it_says_what_to_name(capfd):
    status, _, err = run(capfd, "--topology=v5e:4x4")
    assert status == 2 and "--gin_file=runs/prompt_train.gin" in err


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["--gin.MESH=(1, 1, 8)"], "does not make the 16 devices"),
        (["--gin.MESH=(1, 1, 16)"], "'heads' axis"),
        (["--gin.MESH=(16, 1, 1)", "--gin.BATCH_SIZE=24"], "BATCH_SIZE = 24"),
        (["--gin.REMAT_POLICY='some'"], "none, minimal, full"),
    ],
)
def test_meshes_and_batches_that_do_not_divide_are_one_message(capfd, bindings, message):
    status, out, err = run(capfd, "--topology=v5e:4x4", *FILES, *bindings)
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err


@needs_libtpu
@pytest.mark.slow
def test_json_has_the_documented_keys(capfd):
    status, out, _ = run(
        capfd, "--topology=v5e:2x2", "--json", *FILES, "--gin.MESH=(2, 1, 2)", "--gin.BATCH_SIZE=8"
    )
    found = json.loads(out)
    assert status == 0 and set(found) >= KEYS
    assert found["fits"] is True and found["mesh"] == [2, 1, 2] and found["batch_size"] == 8
    assert 0 < found["hbm_bytes_per_chip"] < found["hbm_limit_bytes"] == int(15.75 * 2**30)
    assert found["estimated_step_seconds"] > 0 and found["decoding"]["flops_per_chip"] > 0


@needs_libtpu
@pytest.mark.slow
def test_a_refusal_is_the_compilers_and_names_what_to_change(capfd):
    status, out, err = run(
        capfd,
        "--topology=v5e:1x1",
        "--json",
        *FILES,
        "--gin.BATCH_SIZE=8192",
        "--gin.EVAL_PERIOD=0",
    )
    found = json.loads(out)
    assert status == 1 and set(found) >= KEYS
    assert found["fits"] is False and found["flops_per_chip"] is None
    for text in ("memory", "hbm", "--gin.BATCH_SIZE", "--gin.REMAT_POLICY", "--search"):
        assert text.lower() in err.lower(), err


IMAGES = [f"--gin_file={name}" for name in ("runs/image_train.gin", "models/demo_vit.gin")]


@needs_libtpu
@pytest.mark.slow
def test_a_run_on_images_is_compiled_for_a_tpu(capfd):
    status, out, _ = run(
        *(capfd, "--topology=v5e:1x1", *IMAGES, "--gin_file=prompts/vanilla_vpt.gin", "--json"),
        *("--gin.PROMPT_PLACEMENT='deep'", "--gin.BATCH_SIZE=8"),
    )
    made = json.loads(out)
    assert status == 0 and made["fits"] and made["tokens_per_second"] is None
    # A layer's matrix products, forward, for 47 tokens: 4 D^2 + 2 D M each, and the attention.
    tokens = 1 + 10 + 36
    forward = 8 * 4 * 2 * (tokens * (4 * 64**2 + 2 * 64 * 128) + 2 * tokens**2 * 64)
    # Backward to the prompts is about as much again, without that to the weights.
    assert 1.3 * forward < made["flops_per_chip"] < 3 * forward


def test_a_refused_run_on_images_is_told_without_a_search():
    gin_utils.parse(
        ["runs/image_train.gin", "models/demo_vit.gin", "recipes/tpu.gin"],
        ["MODEL_DIR = ''", "TRAIN_STEPS = 1", "DATA = @images.Digits()"],
        of_run=True,
    )
    config = kinds.build()
    assert (config.model.dtype.name, config.frozen_dtype) == ("bfloat16", "bfloat16")
    made = Plan(config, parse_topology("v5e:1x1"), (1, 1, 1), None, refusal="too large")
    assert made.to_json()["fits"] is False
    advice = plan._advice(made)
    assert "--gin.BATCH_SIZE below 64" in advice and "--search" not in advice
    assert "recipes/tpu.gin" not in advice


def test_a_search_is_of_text(capfd):
    status, _, err = run(capfd, "--topology=v5e:1x1", *IMAGES, "--search")
    assert status == 2 and "--search takes runs on text" in err
