"""Runs that train a prefix: resumed, saved, evaluated and used like those of a prompt."""

import json

import numpy as np
import pytest

from dpt_jax import inference, interop, run_files
from dpt_jax.cli.main import main
from dpt_jax.interop.adapters import Adapter, load_adapter
from dpt_jax.models import Transformer
from dpt_jax.models.network import fold_prefix
from dpt_jax.prefixes import STACKS, DecomposedPrefix, SimpleSharedPrefix
from dpt_jax.problems import text
from dpt_jax.prompts import VanillaPrompt
from tests.support import runs

pytestmark = pytest.mark.slow

PREFIX = SimpleSharedPrefix(3, STACKS)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return runs.save_backbone(tmp_path_factory.mktemp("t5"))


def config(folder, backbone, **changes):
    return runs.run_config(folder, backbone, **{"prompt": None, "prefix": PREFIX} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory, backbone):
    folder = tmp_path_factory.mktemp("run")
    text.train(config(folder, backbone))
    return folder


def saved(folder, step=12):
    return folder / "numpy_checkpoints" / f"checkpoint_{step}"


def test_what_is_saved_is_what_was_trained(run, backbone):
    folder = saved(run)
    assert sorted(path.name for path in folder.iterdir()) == ["prefix.npz", "prefix_params.npz"]
    own = dict(np.load(folder / "prefix_params.npz"))
    assert set(own) == {f"{stack}_rows" for stack in STACKS}
    params = interop.load_backbone(backbone, runs.T5)[1] | {"prefix": own}
    expected = fold_prefix(Transformer(runs.T5, prefix=PREFIX), params)
    found = load_adapter(folder).prefix
    assert found.position_bias == "none"
    for name, array in found.arrays.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6)


def test_resumed_run_is_the_run_that_was_not_stopped(run, backbone, tmp_path):
    text.train(config(tmp_path, backbone, train_steps=6))
    text.train(config(tmp_path, backbone))
    for name in ("prefix.npz", "prefix_params.npz"):
        ours, theirs = (np.load(saved(folder) / name) for folder in (tmp_path, run))
        for key in theirs.files:
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_evaluation_of_the_file_is_the_run_own(run, backbone):
    last = [line for line in runs.metrics(run) if line["split"] == "validation"][-1]
    adapter = load_adapter(saved(run))
    [result] = inference.evaluate(text.prepare(config(run, backbone)), None, adapter.prefix)
    assert result.metrics["accuracy"] == pytest.approx(last["accuracy"])


def test_prompt_and_prefix_are_trained_together(backbone, tmp_path):
    prompt = VanillaPrompt(2, runs.WIDTH)
    prefix = DecomposedPrefix(2, ("encoder",), bottleneck=1)
    text.train(config(tmp_path, backbone, prompt=prompt, prefix=prefix, train_steps=6))
    adapter = load_adapter(tmp_path)
    assert adapter.prompt.shape == (2, runs.WIDTH)
    assert adapter.prefix.arrays["encoder_keys"].shape == (1, 2, 8, 4)
    # In a bucket the files come one by one, what is folded last; such a folder is no result yet.
    (saved(tmp_path, 6) / "prefix.npz").unlink()
    assert run_files.numpy_checkpoints(tmp_path) == {}
    identity = json.loads((tmp_path / "run.json").read_text())
    assert identity["trainable"] == "(prompt|prefix)/.*"
    assert identity["prefix.method"] == "DecomposedPrefix"


def test_several_prefixes_and_prompts_answer_in_one_call(run, backbone):
    prepared = text.prepare(config(run, backbone, eval_batch_size=8))
    rng = np.random.default_rng(0)
    one = load_adapter(run)
    arrays = {n: rng.normal(size=a.shape).astype(np.float32) for n, a in one.prefix.arrays.items()}
    other = Adapter(prefix=type(one.prefix)(arrays))
    both = Adapter(rng.normal(size=(2, runs.WIDTH)).astype(np.float32), other.prefix)
    adapters = {"one": one, "other": other, "both": both, "none": None}
    texts = ["x a", "x b c", "x d", "x e"] * 2
    names = list(adapters) * 2
    together = inference.Predictor(prepared, adapters)(texts, names)
    for text_, name, answer in zip(texts, names, together, strict=True):
        alone = inference.Predictor(prepared, {name: adapters[name]})
        assert alone([text_], [name]) == [answer]


def test_commands_of_a_run(run, backbone, tmp_path, capsys):
    assert main(runs.arguments(tmp_path, backbone, "prefixes/decomposed.gin", **_macros())) == 0
    capsys.readouterr()
    assert main(["evaluate", f"--model_dir={tmp_path}"]) == 0
    own = json.loads(capsys.readouterr().out)["metrics"]
    file = saved(tmp_path, 6) / "prefix.npz"
    assert main(["evaluate", f"--model_dir={tmp_path}", f"--prompt={file}"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == own
    (tmp_path / "lines.txt").write_text("x a\nx b\n")
    lines = f"--input={tmp_path / 'lines.txt'}"
    assert main(["predict", f"--model_dir={tmp_path}", lines]) == 0
    answers = capsys.readouterr().out
    assert len(answers.splitlines()) == 2
    assert main(["predict", f"--model_dir={tmp_path}", lines, f"--prompt=a={file}"]) == 0
    assert capsys.readouterr().out == answers


def _macros():
    stacks = ("encoder", "decoder", "cross")
    return {"PREFIX_LENGTH": 3, "PREFIX_STACKS": stacks, "PROMPT_LENGTH": 4, "TRAIN_STEPS": 6}


def test_prefix_of_another_model_is_refused(run, backbone, tmp_path, capsys):
    arrays = {f"encoder_{kind}": np.zeros((1, 3, 2, 5), np.float32) for kind in ("keys", "values")}
    np.savez(tmp_path / "prefix.npz", **arrays)
    config_of = config(run, backbone)
    with pytest.raises(Exception, match=r"another model: .*1 layers, 2 heads and a head_dim of 5"):
        inference.evaluate(text.prepare(config_of), None, load_adapter(tmp_path).prefix)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"encoder_keys": (1, 3, 8, 4)}, "encoder_keys"),
        ({"middle_keys": (1, 3, 8, 4), "middle_values": (1, 3, 8, 4)}, "middle_keys"),
        ({"encoder_keys": (1, 3, 8, 4), "encoder_values": (1, 2, 8, 4)}, "shape"),
        ({"encoder_keys": (3, 8, 4), "encoder_values": (3, 8, 4)}, "shape"),
        ({}, "no arrays"),
    ],
)
def test_what_is_no_prefix_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "prefix.npz", **{n: np.zeros(s, np.float32) for n, s in arrays.items()})
    with pytest.raises(Exception, match=rf"holds no prefix: .*{message}.*Change --prompt"):
        load_adapter(tmp_path / "prefix.npz")


def test_what_a_run_has_trained_is_taken_home(run, backbone, tmp_path, capsys):
    output = tmp_path / "home"
    assert main(["export", f"--model_dir={run}", f"--output={output}", "--step=12"]) == 0
    names = ["README.md", "prefix.npz", "prefix_params.npz"]
    assert sorted(path.name for path in output.iterdir()) == names
    for name in names[1:]:
        ours, theirs = np.load(output / name), np.load(saved(run) / name)
        assert ours.files == theirs.files
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours.files)
    capsys.readouterr()
    assert main(["inspect", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "prefix" and report["total"]["numbers"] == 3 * 2 * 3 * 32
    as_adapter = [f"--prompt={output}", f"--output={tmp_path / 'x'}", "--format=peft"]
    assert main(["export", *as_adapter]) == 2
    assert "PEFT gives a T5 one in the decoder" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_prefix_of_the_decoder_in_pefts_format_is_used_like_the_run(backbone, tmp_path, capsys):
    macros = _macros() | {"PREFIX_STACKS": ("decoder",)}
    command = runs.arguments(tmp_path / "run", backbone, "prefixes/free.gin", **macros)
    front = "--gin.prefixes.FreePrefix.position_bias='front'"
    assert main([*command, front]) == 0
    adapter = tmp_path / "adapter"
    export = ["export", f"--model_dir={tmp_path / 'run'}", f"--output={adapter}", "--format=peft"]
    assert main(export) == 0
    capsys.readouterr()
    (tmp_path / "lines.txt").write_text("x a\nx b\n")
    predict = [
        "predict",
        f"--model_dir={tmp_path / 'run'}",
        f"--input={tmp_path / 'lines.txt'}",
    ]
    assert main(predict) == 0
    answers = capsys.readouterr().out
    assert main([*predict, f"--prompt={adapter}"]) == 0
    assert capsys.readouterr().out == answers


def test_rank_of_a_prefix_is_refused(run, capsys):
    assert main(["rank", str(run), "--no_score"]) == 2
    assert "holds a prefix (prefix.npz) and no soft prompt" in capsys.readouterr().err
