"""dpt export: every format, from a run and from a file, and what is refused."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dpt_jax import files
from dpt_jax.cli.main import main
from dpt_jax.errors import InputError
from dpt_jax.interop import load_factors, load_prompt, save_prompt
from dpt_jax.interop.prefixes import FoldedPrefix, save_prefix
from dpt_jax.interop.prompt_exports import export_prompt
from tests.support import runs
from tests.support.killed import killed_while_writing

SHAPE = (runs.PROMPT_LENGTH, runs.WIDTH)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps with two saved prompts."""
    folder = tmp_path_factory.mktemp("export")
    backbone = runs.save_backbone(folder)
    arguments = runs.arguments(folder / "run", backbone, TRAIN_STEPS=4, EVAL_PERIOD=2)
    assert main(arguments) == 0
    return folder / "run"


@pytest.fixture
def export(run, tmp_path, capsys):
    """Exports the run's last prompt under a name; the path, which is what is printed."""

    def call(name, *flags):
        capsys.readouterr()
        output = tmp_path / name
        status = main(
            ["export", f"--model_dir={run}", "--step=latest", f"--output={output}", *flags]
        )
        captured = capsys.readouterr()
        assert status == 0, captured.err
        assert captured.out.strip() == str(output)
        return output

    return call


@pytest.fixture
def trained(run):
    return runs.prompt(run, 4)


def refused(capsys, *argv):
    capsys.readouterr()
    assert main(["export", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def run_readme(text, folder, monkeypatch, until=None):
    """Runs the Python of a README beside what it is about, and returns its variables."""
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.chdir(folder)
    variables = {}
    exec("\n".join(code.splitlines()[:until]), variables)
    return variables


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("my_task", []),
        ("my_task.npy", []),
        ("my_task.safetensors", []),
        ("my_task", ["--format=safetensors"]),
        ("my_task", ["--format=peft"]),
    ],
)
def test_what_is_exported_is_the_runs_prompt(export, trained, name, flags):
    np.testing.assert_array_equal(load_prompt(export(name, *flags)), trained)


@pytest.mark.slow
def test_inspect_shows_the_run_and_what_it_trained(run, capsys):
    capsys.readouterr()
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "run" and found["details"]["task"] == "toy_x"
    assert found["details"]["method"] == "DecomposedPrompt"
    assert found["details"]["steps with a saved prompt"] == [2, 4]
    assert found["prompt"]["spectrum"]["numerical_rank"] == runs.BOTTLENECK


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [("my_task", []), ("my_task", ["--format=safetensors"]), ("my_task.safetensors", [])],
)
def test_the_factors_travel_where_there_is_a_place_for_them(export, name, flags):
    output = export(name, *flags)
    factors = load_factors(output)
    assert {n: a.shape for n, a in factors.items()} == {
        "A": (SHAPE[0], runs.BOTTLENECK),
        "B": (runs.BOTTLENECK, SHAPE[1]),
    }
    product = factors["A"].astype(np.float64) @ factors["B"].astype(np.float64)
    np.testing.assert_allclose(load_prompt(output), product, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "readme"),
    [
        ("my_task", [], "my_task/README.md"),
        ("my_task.npy", [], "my_task.npy.README.md"),
        ("my_task.safetensors", [], "my_task.safetensors.README.md"),
        ("my_task", ["--format=safetensors"], "my_task/README.md"),
    ],
)
def test_the_readmes_lines_load_the_prompt(
    export, trained, tmp_path, monkeypatch, name, flags, readme
):
    export(name, *flags)
    text = (tmp_path / readme).read_text()
    assert f"[{SHAPE[0]}, {SHAPE[1]}]" in text
    found = run_readme(text, tmp_path, monkeypatch)
    np.testing.assert_array_equal(found["prompt"], trained)


@pytest.mark.slow
def test_an_adapter_is_complete_and_needs_no_pytorch(export, trained, monkeypatch):
    for name in ("torch", "transformers", "peft"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = export("adapter", "--format=peft", "--base_model=some/t5")
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    expected = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "num_virtual_tokens": SHAPE[0],
        "token_dim": SHAPE[1],
        "num_transformer_submodules": 1,
        "num_layers": runs.SIZES["num_encoder_layers"],
        "num_attention_heads": runs.SIZES["num_heads"],
        "base_model_name_or_path": "some/t5",
        "inference_mode": True,
    }
    assert {name: config[name] for name in expected} == expected
    [(name, array)] = load_file(folder / "adapter_model.safetensors").items()
    assert name == "prompt_embeddings" and array.dtype == np.float32
    np.testing.assert_array_equal(array, trained)
    assert "some/t5" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_backbone_of_ours_is_not_named_as_the_base_model(export):
    config = json.loads((export("a", "--format=peft") / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None


@pytest.mark.slow
def test_any_prompt_is_converted(export, trained, tmp_path, capsys):
    adapter = export("adapter", "--format=peft", "--base_model=some/t5")
    for i, name in enumerate(["one.npy", "two", "three.safetensors", "four"]):
        flags = ["--format=peft"] if name == "four" else []
        status = main(["export", f"--prompt={adapter}", f"--output={tmp_path / name}", *flags])
        assert status == 0, i
        np.testing.assert_array_equal(load_prompt(tmp_path / name), trained)
    # What the first adapter says of its model, the second says too.
    first, last = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (adapter, tmp_path / "four")
    )
    assert first == last


@pytest.mark.slow
def test_exporting_again_replaces_what_was_written(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for length in (3, 5):
        save_prompt(tmp_path / "source.npy", rng.normal(size=(length, 8)))
        for flags in (["--output={}/a.npy"], ["--output={}/b", "--format=peft"], ["--output={}/c"]):
            flags = [flag.format(tmp_path) for flag in flags]
            assert main(["export", f"--prompt={tmp_path / 'source.npy'}", *flags]) == 0
    for name in ("a.npy", "b", "c"):
        assert load_prompt(tmp_path / name).shape == (5, 8)
    # The run's factors do not stay beside a prompt that has none.
    assert main(["export", f"--model_dir={run}", f"--output={tmp_path / 'd'}"]) == 0
    assert (
        main(["export", f"--prompt={tmp_path / 'source.npy'}", f"--output={tmp_path / 'd'}"]) == 0
    )
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"prompt.npy", "README.md"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_a_folder_of_something_else_is_left_alone(run, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    before = runs.contents(tmp_path)
    for flags in ([], ["--format=peft"], ["--format=safetensors"]):
        error = refused(capsys, f"--model_dir={run}", f"--output={tmp_path}", *flags)
        assert name in error and "--output" in error
    assert runs.contents(tmp_path) == before


@pytest.mark.slow
def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fails)
    for name in ("adapter", "p.safetensors"):
        format = "peft" if name == "adapter" else "safetensors"
        error = refused(
            capsys,
            f"--model_dir={run}",
            f"--output={tmp_path / 'new' / name}",
            f"--format={format}",
        )
        assert "No space left" in error
        assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=x.npy"], "either --model_dir=DIR or --prompt=PATH"),
        (["--model_dir={run}", "--prompt=p.npy", "--output=x.npy"], "either --model_dir"),
        (["--prompt={run}", "--step=2", "--output=x.npy"], "--step names a step of --model_dir"),
        (["--prompt=gone.npy", "--output=x.npy"], "gone.npy"),
        (["--model_dir={run}", "--step=3", "--output=x.npy"], "best, latest and 2, 4"),
        (["--model_dir={run}", "--output=x.npy", "--format=peft"], "ends in .npy"),
        (["--model_dir={run}", "--output=x.npz"], "ends in .npz"),
        (["--model_dir={run}", "--output=x", "--gin.FOO=1"], "no gin bindings, but got 'FOO = 1'"),
        (["--model_dir={run}", "--output=x", "--base_model=t5"], "--format=peft only"),
        (["--model_dir={run}", "--output={run}/config.gin", "--format=peft"], "is a file"),
        (["--model_dir={run}", "--output={run}/config.gin/p.npy"], "cannot be written"),
        (
            ["--model_dir={run}", "--output=x", "--format=peft", "--base_model={run}"],
            "without the config.json",
        ),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    run, tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *(flag.format(run=run) for flag in flags))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_base_model_of_another_width_is_refused(run, tmp_path, capsys):
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 512}))
    error = refused(
        capsys,
        f"--model_dir={run}",
        f"--output={tmp_path / 'x'}",
        "--format=peft",
        f"--base_model={tmp_path / 't5'}",
    )
    assert "512 wide" in error and f"the prompt {SHAPE[1]}" in error


def test_the_base_model_of_a_prefix_has_its_heads_and_layers(tmp_path, monkeypatch, capsys):
    zeros = np.zeros((2, 3, 4, 6), np.float32)
    prefix = FoldedPrefix({"decoder_keys": zeros, "decoder_values": zeros}, "front")
    save_prefix(tmp_path / "prefix", prefix)
    sizes = {"vocab_size": 32, "d_model": 16, "d_ff": 8, "num_layers": 3}
    sizes |= {"num_decoder_layers": 2, "num_heads": 4, "d_kv": 6}
    config = tmp_path / "t5" / "config.json"
    config.parent.mkdir()
    flags = [f"--prompt={tmp_path / 'prefix'}", f"--output={tmp_path / 'x'}", "--format=peft"]
    for change in ({"num_heads": 2}, {"d_kv": 4}, {"num_decoder_layers": 9}):
        config.write_text(json.dumps({"model_type": "t5", **sizes, **change}))
        error = refused(capsys, *flags, f"--base_model={config.parent}")
        assert "--base_model" in error and "has 2 layers, 4 heads and a head_dim of 6" in error
    assert "without the config.json" in refused(capsys, *flags, f"--base_model={tmp_path}")
    config.write_text(json.dumps({"model_type": "t5", **sizes}))
    # Transformers does not know `~`.
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["export", *flags, "--base_model=~/t5"]) == 0
    written = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(config.parent)
    assert main(["export", *flags, "--base_model=some/t5"]) == 0


@pytest.mark.slow
def test_training_goes_on_from_an_exported_prompt_that_is_then_gone(export, run, tmp_path, capsys):
    """The prompt's file is needed at the start only, whatever its format."""
    import shutil

    adapter = export("adapter", "--format=peft")
    arguments = runs.arguments(
        tmp_path / "next",
        run.parent / "backbone",
        prompt="prompts/vanilla_from_prompt.gin",
        PROMPT_FILE=str(adapter),
        TRAIN_STEPS=1,
        EVAL_PERIOD=1,
        LEARNING_RATE_PEAK=0.0,
    )
    arguments = [a for a in arguments if "BOTTLENECK" not in a]
    assert main(arguments) == 0
    np.testing.assert_allclose(runs.prompt(tmp_path / "next", 1), load_prompt(adapter), rtol=1e-6)
    shutil.rmtree(adapter)
    assert main(["evaluate", f"--model_dir={tmp_path / 'next'}"]) == 0


@pytest.mark.slow
def test_a_decomposed_prompt_continues_from_its_factors(run, tmp_path, capsys):
    arguments = runs.arguments(
        tmp_path / "next",
        run.parent / "backbone",
        prompt="prompts/decomposed_from_factors.gin",
        PROMPT_FILE=str(run / "numpy_checkpoints" / "checkpoint_4"),
        TRAIN_STEPS=1,
        EVAL_PERIOD=1,
        LEARNING_RATE_PEAK=0.0,
    )
    assert main(arguments) == 0
    before = load_factors(run / "numpy_checkpoints" / "checkpoint_4")
    after = load_factors(tmp_path / "next" / "numpy_checkpoints" / "checkpoint_1")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), before, after)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "format", "swaps"),
    [
        ("folder", "npy", True),
        ("folder", "npy", False),
        ("adapter", "peft", True),
        ("one.npy", "npy", True),
    ],
)
def test_an_export_that_is_killed_anywhere_leaves_the_old_prompt_or_the_new_one(
    tmp_path, monkeypatch, name, format, swaps
):
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rng = np.random.default_rng(0)
    old, new = (rng.normal(size=(3, 8)).astype("f4") for _ in range(2))
    target = tmp_path / "out" / name
    for changes in range(60):
        export_prompt(target, old, format=format)
        died = killed_while_writing(changes, lambda: export_prompt(target, new, format=format))
        # Without a swap of folders there is a moment in which the name stands for nothing.
        if swaps or target.exists():
            found = load_prompt(target)
            assert any(np.array_equal(found, prompt) for prompt in (old, new)), changes
        if not died:
            break
    assert np.array_equal(found, new) and changes > 5
    # What the kills left is gone, now that an export has come to its end.
    assert not [path for path in target.parent.rglob("*") if ".tmp-" in path.name]


def test_an_export_replaces_what_a_link_stands_for_and_never_the_working_directory(
    tmp_path, monkeypatch
):
    prompt = np.ones((3, 8), np.float32)
    (tmp_path / "link").symlink_to(tmp_path / "first", target_is_directory=True)
    for factor in (1, 2):
        export_prompt(tmp_path / "link", factor * prompt)
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(load_prompt(tmp_path / "first"), 2 * prompt)
    monkeypatch.chdir(tmp_path / "first")
    with pytest.raises(InputError, match="holds the working directory"):
        export_prompt(Path("."), prompt)
