"""The benchmarks run, at a tiny size, and end with the JSON object that they promise.

What they start runs in this process, where all is imported that it asks for. How processes of their
own are started, asked and measured has tests of its own.
"""

import contextlib
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def here(monkeypatch, capsys):
    """Runs a benchmark, and what it starts, in this process; gives back what it prints."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import processes

    # What a side changes of its own process.
    for name in ("XLA_FLAGS", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(processes, "use_cores", lambda count: None)

    def script(path, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(path), *arguments])
            runpy.run_path(str(path), run_name="__main__")

    @contextlib.contextmanager
    def start(path, arguments, threads, platform="cpu"):
        del threads
        assert platform == "cpu"
        found = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "serve", found.update)
            script(path, *arguments)

        class Side:
            def ask(self, command, **question):
                # As between processes.
                return json.loads(json.dumps(found[command](**question)))

        yield Side()

    def python(command, **_):
        _, path, *arguments = command
        with contextlib.redirect_stdout(io.StringIO()) as out:
            script(path, *arguments)
        return subprocess.CompletedProcess(command, 0, out.getvalue())

    def run(name, *arguments):
        monkeypatch.setattr(processes, "start", start)
        monkeypatch.setattr(subprocess, "run", python)
        script(BENCHMARKS / name, "--tiny", *arguments)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


SIDE = """
import os, sys
import processes
processes.use_cores(1)
processes.use_one_device_per_core(3)
processes.serve({
    "add": lambda a, b: print("not an answer") or {"sum": a + b},
    "self": lambda: {
        "argv": sys.argv[1:],
        "flags": os.environ["XLA_FLAGS"],
        "pages": os.environ.get("GLIBC_TUNABLES"),
        "platform": os.environ["JAX_PLATFORMS"],
        "threads": os.environ["OMP_NUM_THREADS"],
        "bytes": processes.peak_memory_bytes(),
    },
})
"""


def test_a_side_is_a_process_that_is_asked_and_ends(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    import processes

    (tmp_path / "side.py").write_text(SIDE)
    with processes.start(str(tmp_path / "side.py"), ["--side", "ours"], threads=3) as side:
        assert side.ask("add", a=2, b=3) == {"sum": 5}
        found = side.ask("self")
        with pytest.raises(RuntimeError, match="ended with 1"):
            side.ask("nothing")
    assert found.pop("bytes") > 1e6
    pages = "glibc.malloc.hugetlb=1" if sys.platform == "linux" else None
    assert found == {
        "argv": ["--side", "ours"],
        "flags": "--xla_force_host_platform_device_count=3",
        "pages": pages,
        "platform": "cpu",
        "threads": "3",
    }


@pytest.mark.slow
@pytest.mark.interop
def test_train_step_benchmark_prints_positive_measurements(here):
    result = here("train_step.py", "--turns", "2", "--steps", "1")
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
def test_prefix_step_benchmark_prints_its_ratios(here):
    result = here("prefix_step.py", "--turns", "1", "--steps", "1")
    steps = {name: result[f"{name}_step_seconds"] for name in ("prompt", "encoder", "decoder")}
    assert result["encoder_over_prompt"] == pytest.approx(steps["encoder"] / steps["prompt"])
    peft = result["peft_decoder_step_seconds"]
    assert result["decoder_ratio"] == pytest.approx(peft / steps["decoder"])


@pytest.mark.slow
@pytest.mark.interop
def test_gpu_benchmark_prints_times_memory_and_updates(here):
    result = here("gpu.py", "--device", "cpu", "--turns", "1")
    for kind in ("step", "generate"):
        ratio = result[f"peft_{kind}_seconds"] / result[f"{kind}_seconds"]
        assert result[f"{kind}_ratio"] == pytest.approx(ratio)
    for name in ("adamw_update_seconds", "orthogonal_update_seconds"):
        assert 0 < result[name]
    # Far above what the tiny model takes: a whole process, with both libraries.
    assert result["peak_bytes"] > 1e8 and result["peft_peak_bytes"] > 1e8


@pytest.mark.slow
@pytest.mark.interop
def test_vit_step_benchmark_prints_its_ratio(here):
    result = here("vit_step.py", "--turns", "1", "--steps", "1")
    assert result["ratio"] == pytest.approx(result["torch_step_seconds"] / result["step_seconds"])
    assert result["peak_memory_bytes"] > 0 and result["torch_peak_memory_bytes"] > 0


@pytest.mark.slow
@pytest.mark.interop
def test_epoch_benchmark_prints_rates_and_recompiles_nothing(here, tmp_path):
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
    result = here("epoch.py", str(path), str(tmp_path / "vocab.model"))
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
def test_convert_benchmark_prints_positive_measurements(here, tmp_path):
    result = here("convert.py", "--folder", str(tmp_path))
    for what in ("convert", "export", "load", "load_hugging_face"):
        assert result[f"{what}_seconds"] > 0
        assert result[f"{what}_peak_bytes"] > result["model_bytes"] > 0
    assert result["load_peak_ratio"] * result["model_bytes"] == pytest.approx(
        result["load_peak_bytes"]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_startup_benchmark_measures_commands():
    # Processes of their own, which is what it measures; of a run, which it has to train before.
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "startup.py"), "--tiny", "--commands=help,export"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() == {"repeats", "cores", "help", "export"}
    for name in ("help", "export"):
        assert result[name].keys() == {"wall_seconds", "processor_seconds", "peak_mb"}
        assert all(value > 0 for value in result[name].values()), name
    # Not even NumPy is imported for a list of the commands. How much an interpreter takes, the
    # machine decides.
    assert result["help"]["peak_mb"] < result["export"]["peak_mb"] / 2


def test_multiplications_are_counted_through_nested_programs(monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import ours

    def twice(x, w):
        return jax.lax.scan(lambda c, _: (jax.jit(lambda c: c @ w)(c), None), x, None, length=1)[0]

    x, w = jax.numpy.ones((3, 5)), jax.numpy.ones((5, 5))
    assert ours._matmul_flop(jax.make_jaxpr(twice)(x, w).jaxpr) == 2 * 3 * 5 * 5


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["train", "generate"])
def test_the_profile_of_a_cpu_finds_every_part_and_its_products(phase):
    script = str(BENCHMARKS / "cpu_profile.py")
    done = subprocess.run(
        [sys.executable, script, "--tiny", "--source=40", f"--phase={phase}", "--operations=2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.stdout.count(" GFLOP  ") == 2 and found["machine_flop_per_second"] > 0
    parts = found["parts"]
    assert 0 < parts["all"]["products"] <= parts["all"]["seconds"]
    # One layer, half of the batch of 4, 4 prompt tokens: two products of queries, keys and width
    # in the encoder's attention, and their two gradients each in training.
    attention = "attention of the encoder, without its projections"
    encoder = 2 * 2 * 2 * 44 * 44 * 16
    assert parts[attention]["flop"] >= encoder * (3 if phase == "train" else 1)
    # And products with a [16, 32] and a [32, 16] matrix, twice in training, for the inputs alone.
    mlp = 2 * 2 * 2 * 44 * 16 * 32
    assert parts["MLP"]["flop"] >= mlp * (2 if phase == "train" else 1)
