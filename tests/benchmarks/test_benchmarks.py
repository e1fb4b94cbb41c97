"""The benchmarks run, at a tiny size, and end with the JSON object that they promise."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def last_line(script: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), "--tiny", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.interop
def test_train_step_benchmark_prints_positive_measurements():
    result = last_line("train_step.py", "--turns", "2", "--steps", "1")
    for name in (
        "step_seconds",
        "peft_step_seconds",
        "ratio",
        "matmul_share",
        "peak_memory_bytes",
        "peft_peak_memory_bytes",
    ):
        assert result[name] > 0, name
    assert result["ratio"] == pytest.approx(result["peft_step_seconds"] / result["step_seconds"])


@pytest.mark.slow
@pytest.mark.interop
def test_prefix_step_benchmark_prints_its_ratios():
    result = last_line("prefix_step.py", "--turns", "1", "--steps", "1")
    steps = {name: result[f"{name}_step_seconds"] for name in ("prompt", "encoder", "decoder")}
    assert result["encoder_over_prompt"] == pytest.approx(steps["encoder"] / steps["prompt"])
    peft = result["peft_decoder_step_seconds"]
    assert result["decoder_ratio"] == pytest.approx(peft / steps["decoder"])


@pytest.mark.slow
@pytest.mark.interop
def test_vit_step_benchmark_prints_its_ratio():
    result = last_line("vit_step.py", "--turns", "1", "--steps", "1")
    assert result["ratio"] == pytest.approx(result["torch_step_seconds"] / result["step_seconds"])
    assert result["peak_memory_bytes"] > 0 and result["torch_peak_memory_bytes"] > 0


@pytest.mark.slow
@pytest.mark.interop
def test_epoch_benchmark_prints_rates_and_recompiles_nothing(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\na dog ran to the house\nyes no maybe\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "vocab"),
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    rows = [{"inputs": " ".join(["the cat ran"] * (1 + i % 3)), "targets": "yes"} for i in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    result = last_line("epoch.py", str(path), str(tmp_path / "vocab.model"))
    for name in (
        "train_examples_per_second",
        "peft_train_examples_per_second",
        "train_ratio",
        "generate_examples_per_second",
        "hf_generate_examples_per_second",
        "generate_ratio",
    ):
        assert result[name] > 0, name
    assert result["examples"] == 9
    assert result["recompilations"] == 0


@pytest.mark.slow
def test_convert_benchmark_prints_positive_measurements(tmp_path):
    result = last_line("convert.py", "--folder", str(tmp_path))
    for what in ("convert", "export", "load", "load_hugging_face"):
        assert result[f"{what}_seconds"] > 0
        assert result[f"{what}_peak_bytes"] > result["model_bytes"] > 0
    assert result["load_peak_ratio"] * result["model_bytes"] == pytest.approx(
        result["load_peak_bytes"]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_startup_benchmark_measures_commands():
    # Those of a run, which it has to train before.
    result = last_line("startup.py", "--commands=help,export,predict")
    assert result.keys() == {"repeats", "cores", "help", "export", "predict"}
    for name in ("help", "export", "predict"):
        assert result[name].keys() == {"wall_seconds", "processor_seconds", "peak_mb"}
        assert all(value > 0 for value in result[name].values()), name
    # Not even NumPy is imported for a list of the commands.
    assert result["help"]["peak_mb"] < 30 < result["predict"]["peak_mb"]


def test_multiplications_are_counted_through_nested_programs(monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ours

    def twice(x, w):
        return jax.lax.scan(lambda c, _: (jax.jit(lambda c: c @ w)(c), None), x, None, length=1)[0]

    x, w = jax.numpy.ones((3, 5)), jax.numpy.ones((5, 5))
    assert ours._matmul_flop(jax.make_jaxpr(twice)(x, w).jaxpr) == 2 * 3 * 5 * 5
