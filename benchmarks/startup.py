"""What it takes to start: seconds and memory of commands that do little.

    python benchmarks/startup.py [--repeats N] [--commands NAMES] [--python PYTHON]

A run of `dpt demo`'s model and sizes is trained for a step in a temporary folder, which is also
where compiled programs are kept. Then, each in a process of its own and all in turn, `--repeats`
times after one that is not counted:
  help, inspect, export    `dpt --help`, and of a run `dpt inspect` and `dpt export` to .npy
  predict                  `dpt predict` of one line of text
  train                    `dpt train` of a new run, which ends with its first step
  train_compiling          the same with DPT_COMPILATION_CACHE=off, as on a machine's first day
  train_resumed            `dpt train` of a run that takes its second step
  peft_import              `import transformers, peft`
  peft_step                the same, and a first step of prompt tuning on a T5 of the same sizes

The last line is a JSON object with the medians, for each of these:
  wall_seconds, processor_seconds (user's and system's, all threads), peak_mb (largest resident set)
Another installation, such as that of an earlier version, is measured with its PYTHON.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

HERE = pathlib.Path(__file__).resolve().parent
TEXT = "is the red cup on the table ?\n"
PEFT_IMPORT = "import transformers, peft"
PEFT_STEP = """
import numpy as np, os
from sizes import Size
from theirs import Theirs
size = Size(256, 128, 8, 16, 384, 3, 20, 4, 32, 36, 6)
rng = np.random.default_rng(0)
shapes = {"encoder_input_tokens": (32, 36), "decoder_target_tokens": (32, 6)}
batch = {name: rng.integers(2, 256, shape) for name, shape in shapes.items()}
Theirs(size, 0.0, len(os.sched_getaffinity(0))).train(batch)
"""


def measure(argv: Sequence[str], text: str = "", **environment: str) -> dict[str, float]:
    """Runs a command to its end in an empty folder; the numbers are the process's own."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        process.stdin.write(text.encode())
        process.stdin.close()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            message = errors.read().decode()[-2000:]
            raise RuntimeError(f"{argv} ended with {process.returncode}: {message}")
    kilobytes = used.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {
        "wall_seconds": wall,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": kilobytes / 1000,
    }


class Commands:
    """The commands that are measured, in a folder of their own."""

    def __init__(self, python: str, folder: pathlib.Path):
        """Trains the run that they need."""
        self._python, self._folder = python, folder
        self._run = folder / "run"
        self._new = folder / "new"
        self._dpt(*self._train(self._run, 1))

    def _dpt(self, *argv: str, text: str = "", cache: str | None = None) -> dict[str, float]:
        cache = cache or str(self._folder / "programs")
        command = [self._python, "-m", "dpt_jax", *argv]
        return measure(command, text, DPT_COMPILATION_CACHE=cache, JAX_COMPILATION_CACHE_DIR="")

    def _train(self, model_dir: pathlib.Path, steps: int) -> list[str]:
        values = {
            "MODEL_DIR": str(model_dir),
            "MIXTURE_OR_TASK_NAME": "demo_wordsense",
            "TRAIN_STEPS": steps,
            "EVAL_PERIOD": 0,
        }
        files = ("runs/demo.gin", "prompts/decomposed_uniform.gin")
        sizes = {"PROMPT_LENGTH": 20, "BOTTLENECK": 4}
        return [
            "train",
            *(f"--gin_file={file}" for file in files),
            *(f"--gin.{name}={value!r}" for name, value in (values | sizes).items()),
        ]

    def help(self):
        return self._dpt("--help")

    def inspect(self):
        return self._dpt("inspect", str(self._run))

    def export(self):
        output = self._folder / "prompt.npy"
        return self._dpt("export", f"--model_dir={self._run}", f"--output={output}")

    def predict(self):
        return self._dpt("predict", f"--model_dir={self._run}", text=TEXT)

    def train(self):
        shutil.rmtree(self._new, ignore_errors=True)
        return self._dpt(*self._train(self._new, 1))

    def train_compiling(self):
        shutil.rmtree(self._new, ignore_errors=True)
        return self._dpt(*self._train(self._new, 1), cache="off")

    def train_resumed(self):
        shutil.rmtree(self._new, ignore_errors=True)
        shutil.copytree(self._run, self._new)
        return self._dpt(*self._train(self._new, 2))

    def peft_import(self):
        return measure([self._python, "-c", PEFT_IMPORT])

    def peft_step(self):
        return measure([self._python, "-c", PEFT_STEP])


def main() -> None:
    """Measures, and prints each number as it comes and the medians at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="interpreter to measure")
    names = [name for name in vars(Commands) if not name.startswith("_")]
    parser.add_argument("--commands", default=",".join(names), help="which, with commas")
    parser.add_argument("--tiny", action="store_true", help="once each, for a test")
    args = parser.parse_args()
    names = args.commands.split(",")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(args.python, pathlib.Path(folder))
        for turn in range(1 if args.tiny else args.repeats + 1):
            for name in names:
                one = getattr(commands, name)()
                if turn or args.tiny:
                    found[name].append(one)
                print(name, json.dumps(one), file=sys.stderr, flush=True)
    medians = {
        name: {
            key: round(statistics.median(one[key] for one in measured), 3) for key in measured[0]
        }
        for name, measured in found.items()
    }
    print(json.dumps({"repeats": len(found[names[0]]), "cores": os.cpu_count(), **medians}))


if __name__ == "__main__":
    main()
