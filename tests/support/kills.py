"""Kills a random one of two processes at a random step, again and again.

python -m tests.support.kills FOLDER [--kills=10] [--steps=200] [--devices=4] [--seed=0]

prints one JSON line: what every kill left behind, what the other process said, and how far the
final prompt is from that of an unbroken run. FOLDER must be new.
"""

import argparse
import json
import pathlib
import random
import re
import signal
import sys
import time

import numpy as np

from dpt_jax.files import TEMPORARY_MARK
from tests.support import processes, runs

# What Orbax and we call work that is not finished.
UNFINISHED = (TEMPORARY_MARK, "orbax-checkpoint-tmp")


def latest(model_dir) -> int:
    """The last checkpoint's step; 0 where there is none."""
    steps = (pathlib.Path(model_dir) / "checkpoints").glob("*")
    return max((int(path.name) for path in steps if path.name.isdigit()), default=0)


def wait_for_step(group, model_dir, step) -> None:
    """Waits until that step is saved, or a process has ended."""
    while latest(model_dir) < step and all(process.poll() is None for process in group):
        time.sleep(0.01)


def unfinished(model_dir) -> list[str]:
    """What writers have left that did not come to their end."""
    found = (str(path.relative_to(model_dir)) for path in pathlib.Path(model_dir).rglob("*"))
    return sorted(path for path in found if any(mark in path for mark in UNFINISHED))


def broken(model_dir) -> list[str]:
    """Files under their final names that cannot be read to their end."""
    bad = []
    for path in sorted(pathlib.Path(model_dir).rglob("*")):
        name = str(path.relative_to(model_dir))
        if not path.is_file() or any(mark in name for mark in UNFINISHED):
            continue
        try:
            if path.suffix == ".json" or path.name in ("_METADATA", "_CHECKPOINT_METADATA"):
                json.loads(path.read_text())
            elif path.suffix == ".jsonl":
                for line in path.read_text().splitlines():
                    json.loads(line)
            elif path.suffix == ".npy":
                np.load(path)
            elif path.suffix == ".npz":
                dict(np.load(path))
        except (ValueError, OSError, EOFError) as error:
            bad.append(f"{name}: {error}")
    return bad


def kill(start, model_dir, step, rng) -> dict:
    """Starts the run, kills one process soon after `step` is saved, and says what there was."""
    before = latest(model_dir)
    group = start()
    wait_for_step(group, model_dir, step)
    time.sleep(rng.random() * 0.4)
    victim = rng.randrange(2)
    group[victim].kill()
    killed = time.monotonic()
    ends = processes.finish(group)
    _, _, told = ends[0]
    continued = re.search(r"continuing from step (\d+)", told)
    survivor, _, err = ends[1 - victim]
    return {
        "victim": victim,
        "killed": ends[victim][0] == -signal.SIGKILL,
        "continued_from": int(continued.group(1)) if continued else 0,
        "should_continue_from": before,
        "saved": latest(model_dir),
        "survivor": survivor,
        "survivor_seconds": round(time.monotonic() - killed, 1),
        "said": [line for line in err.splitlines() if line.startswith("error: ")],
        "stack_trace": "Check failure stack trace" in err or "Traceback" in err,
        "broken": broken(model_dir),
        "left": unfinished(model_dir),
    }


def main(arguments) -> dict:
    """Runs it; see the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    for name, default in (("kills", 10), ("steps", 200), ("devices", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True)
    backbone, rng = runs.save_backbone(args.folder), random.Random(args.seed)
    macros = {
        "TRAIN_STEPS": args.steps,
        "EVAL_PERIOD": 20,
        "NUM_BUCKETS": 1,
        "MESH": (2, 2, args.devices // 2),
        "DROPOUT_RATE": 0.1,
        "config.RunConfig.checkpoint_period": 2,
        "config.RunConfig.log_period": 3,
    }

    def start(name):
        argv = runs.arguments(args.folder / name, backbone, **macros)
        return processes.start_all([argv, argv], args.devices, heartbeat_timeout=10)

    whole = processes.finish(start("whole"))
    assert [status for status, _, _ in whole] == [0, 0], whole
    folder, records = args.folder / "killed", []
    for i in range(args.kills):
        first = latest(folder)
        room = args.steps - 10 - first
        step = first + rng.randint(1, max(1, room // (args.kills - i)))
        records.append(kill(lambda: start("killed"), folder, step, rng))
        print(json.dumps(records[-1]), file=sys.stderr, flush=True)
    ends = processes.finish(start("killed"))
    difference = np.abs(
        runs.prompt(folder, args.steps) - runs.prompt(args.folder / "whole", args.steps)
    )
    return {
        "kills": records,
        "status": [status for status, _, _ in ends],
        "prompt_difference": float(difference.max()),
        "same_log": runs.metrics(folder) == runs.metrics(args.folder / "whole"),
        "broken": broken(folder),
        "left": unfinished(folder),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
