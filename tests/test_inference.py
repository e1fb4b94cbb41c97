"""dpt evaluate, predict and export on a short run of a toy task."""

import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from dpt_jax import inference
from dpt_jax.cli.main import main
from dpt_jax.devices import partitioning
from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, load_factors, save_backbone, save_prompt
from dpt_jax.models import T5Config, Transformer
from dpt_jax.problems.text import prepare
from tests.support import runs

WIDTH, LENGTH, TARGETS = 32, 5, 6
MODEL_GIN = f"""
from __gin__ import dynamic_registration
from dpt_jax import models
EMBED_DIM = {WIDTH}
DROPOUT_RATE = 0.0
MODEL = @models.T5Config()
models.T5Config:
  vocab_size = 384
  emb_dim = %EMBED_DIM
  num_heads = 2
  num_encoder_layers = 2
  num_decoder_layers = 1
  head_dim = 8
  mlp_dim = 64
  dropout_rate = %DROPOUT_RATE
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps: its folder, and what `dpt train` printed."""
    folder = tmp_path_factory.mktemp("inference")
    (folder / "tiny.gin").write_text(MODEL_GIN)
    config = T5Config(
        vocab_size=384,
        emb_dim=WIDTH,
        num_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=64,
    )
    tokens = jnp.zeros((1, 4), jnp.int32)
    init = jax.jit(lambda key: Transformer(config).init(key, tokens, tokens, tokens)["params"])
    params = jax.tree.map(np.array, init(jax.random.key(3)))
    # A sharper output than a fresh T5's, so that greedy decoding has no near ties.
    params["decoder"]["logits_dense"]["kernel"] *= 30.0
    save_backbone(folder / "backbone", config, params)
    status = main(
        [
            "train",
            "--gin_file=runs/prompt_train.gin",
            f"--gin_file={folder / 'tiny.gin'}",
            "--gin_file=prompts/decomposed.gin",
            f"--gin.MODEL_DIR='{folder / 'run'}'",
            f"--gin.INITIAL_CHECKPOINT_PATH='{folder / 'backbone'}'",
            "--gin.MIXTURE_OR_TASK_NAME='toy_x'",
            "--gin.MIXTURE_OR_TASK_MODULE='tests.support.toy_tasks'",
            f"--gin.TASK_FEATURE_LENGTHS={{'inputs': 64, 'targets': {TARGETS}}}",
            f"--gin.PROMPT_LENGTH={LENGTH}",
            "--gin.BOTTLENECK=2",
            "--gin.TRAIN_STEPS=4",
            "--gin.EVAL_PERIOD=2",
            "--gin.NUM_BUCKETS=2",
        ]
    )
    assert status == 0
    return folder / "run"


def call(capsys, *argv, stdin=None, monkeypatch=None):
    """Status, standard output and standard error of a command."""
    if stdin is not None:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    capsys.readouterr()
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def greedy_by_recompute(folder, prompt, text):
    """What the prompted model says, one full forward pass per token, without any cache."""
    from dpt_jax.interop import load_backbone
    from dpt_jax.prompts import VanillaPrompt

    config, params = load_backbone(folder / "backbone")
    model = Transformer(config, None if prompt is None else VanillaPrompt(*prompt.shape))
    if prompt is not None:
        params = params | {"prompt": {"prompt": prompt}}
    source = np.asarray([[b + 3 for b in text.encode()] + [1]], np.int32)
    target = np.zeros((1, TARGETS), np.int32)
    forward = jax.jit(
        lambda t: model.apply(
            {"params": params},
            source,
            jnp.pad(t[:, :-1], ((0, 0), (1, 0))),
            jnp.ones_like(t),
            enable_dropout=False,
        )
    )
    for i in range(TARGETS):
        target[0, i] = np.argmax(forward(target)[0, i])
        if target[0, i] == 1:
            break
    ids = target[0].tolist()
    ids = ids[: ids.index(1)] if 1 in ids else ids
    return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="ignore")


@pytest.mark.slow
def test_evaluate_gives_the_metrics_that_training_logged(run, capsys):
    for step in ("2", "4", "best", "latest"):
        status, out, _ = call(capsys, "evaluate", f"--model_dir={run}", f"--step={step}")
        assert status == 0
        found = json.loads(out.splitlines()[-1])
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        [expected] = [
            row["accuracy"]
            for row in logged
            if row["split"] == "validation" and str(row["step"]) == found["prompt"]
        ]
        assert found["metrics"]["toy_x"]["accuracy"] == expected


@pytest.mark.slow
def test_evaluating_the_exported_prompt_gives_the_runs_predictions(run, capsys, tmp_path):
    assert call(capsys, "export", f"--model_dir={run}", f"--output={tmp_path / 'p.npy'}")[0] == 0
    status, out, _ = call(
        capsys,
        "evaluate",
        f"--model_dir={run}",
        f"--prompt={tmp_path / 'p.npy'}",
        f"--predictions={tmp_path}",
    )
    assert status == 0
    best = json.loads((run / "summary.json").read_text())["best_step"]
    expected = (run / "predictions" / f"toy_x_{best}.jsonl").read_text()
    assert (tmp_path / "toy_x_p.jsonl").read_text() == expected


@pytest.mark.slow
def test_export_writes_the_product_of_the_factors_it_writes(run, capsys, tmp_path):
    status, out, _ = call(
        capsys, "export", f"--model_dir={run}", "--step=latest", f"--output={tmp_path / 'e'}"
    )
    assert status == 0 and out.strip() == str(tmp_path / "e")
    factors = load_factors(tmp_path / "e")
    prompt = np.load(tmp_path / "e" / "prompt.npy")
    assert prompt.dtype == np.float32 and prompt.shape == (LENGTH, WIDTH)
    assert factors["A"].shape == (LENGTH, 2) and factors["B"].shape == (2, WIDTH)
    product = factors["A"].astype(np.float64) @ factors["B"].astype(np.float64)
    np.testing.assert_allclose(prompt, product, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_several_prompts_in_one_batch_answer_as_each_does_alone(run, capsys, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    prompts = {"run": np.load(run / "numpy_checkpoints" / "checkpoint_4" / "prompt.npy")}
    # Two of the run's length, which share its batches, and one longer.
    for name, length in (("one", LENGTH), ("two", LENGTH), ("long", LENGTH + 3)):
        prompts[name] = rng.normal(size=(length, WIDTH)).astype(np.float32)
        save_prompt(tmp_path / f"{name}.npy", prompts[name])
    names = ["one", "two", "run", "long", "two", "one", "long", "run"]
    texts = ["abc", "gfa", "xab", "a", "fedcba" * 5, "ggg", "abcabc" * 4, "bbx"]
    rows = [
        {"id": i, "inputs": t, "prompt": n}
        for i, (t, n) in enumerate(zip(texts, names, strict=True))
    ]
    status, out, _ = call(
        capsys,
        "predict",
        f"--model_dir={run}",
        "--step=latest",
        f"--prompt=one={tmp_path / 'one.npy'}",
        f"--prompt={tmp_path / 'two.npy'}",
        f"--prompt=long={tmp_path / 'long.npy'}",
        "--window=5",
        stdin="".join(json.dumps(row) + "\n" for row in rows),
        monkeypatch=monkeypatch,
    )
    assert status == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [a["id"] for a in answers] == list(range(len(rows)))
    for answer in answers:
        expected = greedy_by_recompute(run.parent, prompts[answer["prompt"]], answer["inputs"])
        assert answer["output"] == expected
    assert len({a["output"] for a in answers}) > 2  # The prompts do make a difference.


@pytest.mark.slow
def test_plain_lines_are_answered_by_plain_lines(run, capsys, tmp_path, monkeypatch):
    prompt = np.load(run / "numpy_checkpoints" / "checkpoint_4" / "prompt.npy")
    (tmp_path / "in.txt").write_text("abc\nxx\n")
    status, out, _ = call(
        capsys,
        "predict",
        f"--model_dir={run}",
        "--step=4",
        f"--input={tmp_path / 'in.txt'}",
        f"--output={tmp_path / 'out.txt'}",
    )
    assert status == 0 and out == ""
    expected = [greedy_by_recompute(run.parent, prompt, text) for text in ("abc", "xx")]
    assert (tmp_path / "out.txt").read_text().split("\n")[:2] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"inputs": "a", "prompt": "rum"}', "Row 1 names the prompt 'rum'; there are run."),
        ('{"inputs": ', "Line 1 starts with a brace but is not JSON"),
        ('{"text": "a"}', 'Line 1 has no text "inputs"'),
        ("a" * 80, "Row 1 has 81 tokens, more than TASK_FEATURE_LENGTHS allows (64)"),
    ],
)
def test_a_bad_line_is_named(run, capsys, monkeypatch, line, message):
    status, out, err = call(
        capsys, "predict", f"--model_dir={run}", stdin=line + "\n", monkeypatch=monkeypatch
    )
    assert status == 2 and out == ""
    assert message in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "--model_dir=nowhere"], "nowhere has no config.gin"),
        (["evaluate"], "--model_dir, --prompt or --no_prompt"),
        (["evaluate", "--model_dir={run}", "--step=3"], "best, latest and 2, 4"),
        (["evaluate", "--model_dir={run}", "--split=test"], "no split 'test'"),
        (["evaluate", "--model_dir={run}", "--prompt=gone.npy"], "gone.npy"),
        (["evaluate", "--model_dir={run}", "--prompt={narrow}"], "(5, 8)"),
        (["predict", "--model_dir={run}", "--input=gone.txt"], "--input = gone.txt"),
        (["export", "--model_dir=nowhere", "--output=x"], "nowhere"),
    ],
)
def test_bad_flags_name_the_flag_and_its_value(run, capsys, tmp_path, argv, message):
    save_prompt(tmp_path / "narrow.npy", np.zeros((5, 8), np.float32))
    argv = [a.format(run=run, narrow=tmp_path / "narrow.npy") for a in argv]
    status, out, err = call(capsys, *argv)
    assert status == 2 and out == ""
    assert message in err and "Traceback" not in err


@pytest.mark.slow
def test_another_backbone_than_the_runs_is_refused_and_a_copy_of_it_is_not(run, capsys, tmp_path):
    config, params = load_backbone(run.parent / "backbone")
    other = jax.tree.map(lambda x: np.array(x[::-1]), params)
    save_backbone(tmp_path / "other", config, other)
    shutil.copytree(run.parent / "backbone", tmp_path / "moved")
    (tmp_path / "lines").write_text("ab\n")
    commands = {
        "predict": [f"--model_dir={run}", f"--input={tmp_path / 'lines'}"],
        "evaluate": [f"--model_dir={run}"],
        "rank": [str(run)],
    }
    saved = json.loads((run / "run.json").read_text())["backbone_fingerprint"]
    for command, flags in commands.items():
        path = f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path / 'other'}'"
        status, out, err = call(capsys, command, *flags, path)
        assert (status, out) == (2, "")
        for part in (str(saved), str(tmp_path / "other"), "Set --gin.INITIAL_CHECKPOINT_PATH"):
            assert part in err
    path = f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path / 'moved'}'"
    expected = call(capsys, "predict", *commands["predict"])
    assert call(capsys, "predict", *commands["predict"], path) == expected and expected[0] == 0


def test_a_batch_that_the_devices_do_not_divide_is_refused_before_anything_is_read():
    mesh = AbstractMesh((4, 2, 1), partitioning.MESH_AXES)
    config = runs.run_config("run", "nowhere", eval_batch_size=12)
    with pytest.raises(InputError, match="EVAL_BATCH_SIZE = 12 .* 8 batch shards"):
        inference.Predictor(prepare(config, mesh), {})
    with pytest.raises(InputError, match="EVAL_BATCH_SIZE = 12 .* 8 batch shards"):
        inference.evaluate(prepare(config, mesh), None)
