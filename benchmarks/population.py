"""Eight points of the demo's size: trained together by `dpt sweep`, and one by one by `dpt train`.

    python benchmarks/population.py

The points differ in seed, learning rate and bottleneck. Both sides are commands as a person would
run them, everything included: start-up, reading the data, compilation, evaluation, checkpoints, and
the sweep's tables. Half of the points are trained alone before the sweep and half after it, so that
a slower or faster stretch of the machine meets both sides.

The last line is a JSON object:
  population_seconds, alone_seconds, ratio   wall time of the sweep and of the commands together,
                                             and the first over the second.
  population_cpu_seconds, alone_cpu_seconds, cpu_ratio
                                             the same in processor time, which a busy machine
                                             distorts less.
  population_peak_memory_bytes, alone_peak_memory_bytes
                                             the largest process of each side.
  score_difference, prompt_difference        the largest difference of a point's best score, and of
                                             an entry of its last prompt, between the two sides.
"""

import argparse
import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# In this order the demo's own sizes hold: 20 tokens of prompt, not the paper's 100.
GIN_FILES = ["prompts/decomposed_uniform.gin", "runs/demo.gin"]
GRID = {"RANDOM_SEED": [0, 1], "LEARNING_RATE_PEAK": [0.1, 0.3], "BOTTLENECK": [2, 4]}
SWEEP = """
from __gin__ import dynamic_registration
from dpt_jax import sweeps
sweeps.Sweep:
  name = "population"
  gin_files = {gin_files}
  bindings = {bindings}
  grid = {grid}
  folder = "{folder}"
"""
FOLDER = "_".join("{" + name + "}" for name in GRID)


class Spent:
    """What commands cost: wall and processor time, and the memory of the largest process."""

    def __init__(self):
        self.seconds = self.cpu_seconds = 0.0
        self.peak_bytes = 0

    def run(self, words: list[str]) -> None:
        """Runs a `dpt` command to its end."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        environment = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            # GNU time's job, done by a process in between: the peak of its children alone.
            [sys.executable, "-c", _MEASURED, *words],
            env=environment | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"dpt {' '.join(words)} failed:\n{done.stderr[-4000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.peak_bytes = max(self.peak_bytes, int(done.stdout.splitlines()[-1]))


_MEASURED = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", "dpt_jax", *sys.argv[1:]], stdout=sys.stderr)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak if sys.platform == "darwin" else peak * 1024)
sys.exit(code)
"""


def measure(folder: pathlib.Path, bindings: dict[str, object]) -> dict[str, object]:
    """Trains the points both ways, into `folder`."""
    file = folder / "sweep.gin"
    file.write_text(SWEEP.format(gin_files=GIN_FILES, bindings=bindings, grid=GRID, folder=FOLDER))
    points = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    alone, together = Spent(), Spent()

    def train_alone(chosen):
        for point in chosen:
            macros = (
                bindings | point | {"MODEL_DIR": str(folder / "alone" / FOLDER.format(**point))}
            )
            alone.run(
                ["train"]
                + [f"--gin_file={name}" for name in GIN_FILES]
                + [f"--gin.{name}={value!r}" for name, value in macros.items()]
            )
            print(f"alone {point}: {alone.seconds:.1f} s so far", flush=True)

    train_alone(points[: len(points) // 2])
    together.run(["sweep", f"--gin_file={file}", f"--output={folder}"])
    print(f"together: {together.seconds:.1f} s", flush=True)
    train_alone(points[len(points) // 2 :])

    import numpy as np

    scores, prompts = [], []
    for point in points:
        name = FOLDER.format(**point)
        both = folder / "alone" / name, folder / "population" / "points" / name
        summaries = [json.loads((run / "summary.json").read_text()) for run in both]
        scores.append(abs(summaries[0]["best_value"] - summaries[1]["best_value"]))
        step = summaries[0]["last_step"]
        saved = [np.load(r / f"numpy_checkpoints/checkpoint_{step}/prompt.npy") for r in both]
        prompts.append(float(np.abs(saved[0] - saved[1]).max()))
    logs = (folder / "population" / "logs").glob("*.log")
    if not any(f"{len(points)} runs train together" in log.read_text() for log in logs):
        sys.exit("The points were not trained together.")
    return {
        "points": len(points),
        "steps": summaries[0]["last_step"],
        "population_seconds": together.seconds,
        "alone_seconds": alone.seconds,
        "ratio": together.seconds / alone.seconds,
        "population_cpu_seconds": together.cpu_seconds,
        "alone_cpu_seconds": alone.cpu_seconds,
        "cpu_ratio": together.cpu_seconds / alone.cpu_seconds,
        "population_peak_memory_bytes": together.peak_bytes,
        "alone_peak_memory_bytes": alone.peak_bytes,
        "score_difference": max(scores),
        "prompt_difference": max(prompts),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="updates per point; default: the demo's own")
    parser.add_argument("--tiny", action="store_true", help="two points, to see that it runs")
    options = parser.parse_args()
    bindings: dict[str, object] = {"MIXTURE_OR_TASK_NAME": "demo_wordsense"}
    if options.tiny:
        GRID.update(RANDOM_SEED=[0], LEARNING_RATE_PEAK=[0.1])
        bindings |= {"TRAIN_STEPS": 3, "EVAL_PERIOD": 3}
    if options.steps:
        bindings |= {"TRAIN_STEPS": options.steps, "EVAL_PERIOD": max(1, options.steps // 10)}
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(pathlib.Path(folder), bindings)))


if __name__ == "__main__":
    main()
