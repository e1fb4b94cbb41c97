"""Damaged files through the commands: `python -m tests.support.fuzzing FOLDER SEED COUNT`.

Every input is a whole file that is cut short or has some bits turned over. A command may take it,
or refuse it in one line and with status 2. What else happens is printed, a JSON object per input.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings

import numpy as np

from dpt_jax import demo
from dpt_jax.cli.main import main
from tests.support import runs

# What a command may ask for on top of what the process has, and how long it may take.
BYTES, SECONDS = 2**30, 30


# What a value of a JSON object may become.
OTHERS = (None, True, "a text", "", -1, 0, 3, 0.5, 10**9, 10**30, [], [None], {}, {"a": 1})


@dataclasses.dataclass(frozen=True)
class Target:
    """A file to damage, and a command that reads it."""

    file: pathlib.Path
    argv: list[str]


def targets(folder: pathlib.Path) -> list[Target]:
    """Writes whole files of every format; each is read by every command that takes it."""
    found = []

    def add(file, *argv):
        found.append(Target(folder / file, [str(arg) for arg in argv]))

    def out():
        return folder / "out" / str(len(found))

    backbone = runs.save_backbone(folder)
    for name, to in (("copied", "dpt"), ("hf", "hf")):
        assert main(["convert", str(backbone), str(folder / name), "--to", to]) == 0
        for file in ("model.safetensors", "backbone.json" if to == "dpt" else "config.json"):
            add(f"{name}/{file}", "inspect", folder / name)
            add(f"{name}/{file}", "convert", folder / name, out())
    write_t5x_checkpoint(folder / "checkpoint_3")
    wi = "checkpoint_3/target.decoder.layers_0.mlp.wi.kernel"
    for file in ("checkpoint_3/checkpoint", f"{wi}/.zarray", f"{wi}/0.0"):
        add(file, "inspect", folder / "checkpoint_3")
        add(file, "convert", folder / "checkpoint_3", out())

    rng = np.random.default_rng(0)
    factors = {"A": rng.normal(size=(4, 2)), "B": rng.normal(size=(2, runs.WIDTH))}
    np.savez(folder / "factors.npz", **factors)
    np.save(folder / "prompt.npy", (factors["A"] @ factors["B"]).astype(np.float32))
    prompt = f"--prompt={folder / 'prompt.npy'}"
    for name, more in (
        ("prompt.safetensors", []),
        ("adapter", ["--format=peft", f"--base_model={folder / 'hf'}"]),
    ):
        assert main(["export", prompt, f"--output={folder / name}", *more]) == 0
    (folder / "rows.jsonl").write_text('{"inputs": "abc"}\n{"inputs": "xä", "id": 3}\nplain\n')
    tiny = folder / "tiny.gin"
    gin = [f"--gin_file={file}" for file in ("runs/prompt_train.gin", tiny)]
    gin += [a for a in runs.arguments("", backbone)[1:] if a.startswith("--gin.")]
    rows = f"--input={folder / 'rows.jsonl'}"
    for file, path in (
        ("prompt.npy",) * 2,
        ("factors.npz",) * 2,
        ("prompt.safetensors",) * 2,
        ("adapter/adapter_model.safetensors", "adapter"),
        ("adapter/adapter_config.json", "adapter"),
    ):
        add(file, "inspect", folder / path)
        add(file, "export", f"--prompt={folder / path}", f"--output={out()}")
        add(file, "predict", *gin, f"--prompt={folder / path}", rows)
    for file in ("rows.jsonl", "tiny.gin"):
        add(file, "predict", *gin, prompt, rows)
    run = write_run(folder / "run", backbone, tiny)
    for file in ("sentencepiece.model", "vocabulary.json"):
        add(run / file, "predict", f"--model_dir={run}", "--step=3", rows)

    (folder / "superglue" / "RTE").mkdir(parents=True)
    lines = [
        {"premise": f"Ä dog {i}.", "hypothesis": "A cat.", "label": i % 2, "idx": i}
        for i in range(3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "superglue" / "RTE" / "val.jsonl").write_text(text)
    os.environ |= {
        "DPT_SUPERGLUE_DIR": str(folder / "superglue"),
        "DPT_VOCAB": str(demo.VOCABULARY),
    }
    tasks = ["tasks", "show", "dpt_rte", "--module=dpt_jax.tasks", "--split=validation"]
    add("superglue/RTE/val.jsonl", *tasks)
    return found


def write_t5x_checkpoint(folder: pathlib.Path) -> None:
    """The tiny T5 in T5X's released format: a msgpack index and a zarr folder per parameter."""
    import tensorstore as ts
    from flax import serialization
    from flax.traverse_util import flatten_dict, unflatten_dict

    specs = {}
    for name, array in flatten_dict(runs.random_parameters(), sep="/").items():
        path = f"target.{name.replace('/', '.')}/"
        metadata = {"chunks": list(array.shape), "shape": list(array.shape)}
        metadata["compressor"] = {"id": "gzip", "level": 1}
        store = {"driver": "file", "path": f"{folder / path}/"}
        spec = {"driver": "zarr", "kvstore": store, "metadata": {**metadata, "dtype": "<f4"}}
        ts.open(spec, create=True).result().write(array).result()
        specs[name] = {"driver": "zarr", "kvstore": {"driver": "file", "path": path}}
        specs[name] |= {"dtype": "float32", "metadata": metadata}
    index = {"version": 3, "optimizer": {"target": unflatten_dict(specs, sep="/"), "state": {}}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


def write_run(folder: pathlib.Path, backbone: pathlib.Path, tiny: pathlib.Path) -> pathlib.Path:
    """As much of a run as `dpt predict` reads, with a SentencePiece vocabulary."""
    from dpt_jax import gin_utils
    from dpt_jax.training.config import RunConfig

    bindings = runs.arguments(folder, backbone)[1:]
    bindings = [a.removeprefix("--gin.").replace("=", " = ", 1) for a in bindings if "--gin." in a]
    files = ["runs/prompt_train.gin", str(tiny), "prompts/decomposed.gin"]
    gin_utils.parse(files, bindings)
    gin_utils.build(RunConfig)
    folder.mkdir()
    (folder / "config.gin").write_text(gin_utils.operative_config())
    shutil.copy(demo.VOCABULARY, folder / "sentencepiece.model")
    described = {"kind": "sentencepiece", "extra_ids": 0, "add_eos": True}
    (folder / "vocabulary.json").write_text(json.dumps(described))
    saved = folder / "numpy_checkpoints" / "checkpoint_3"
    saved.mkdir(parents=True)
    np.save(saved / "prompt.npy", np.zeros((runs.PROMPT_LENGTH, runs.WIDTH), np.float32))
    return folder


def damaged(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """A part of a file's beginning, or the whole file with one to eight bits turned over.

    Of a JSON object one value may be another instead, which bits alone do not often make.
    """
    if name.endswith((".json", ".zarray")) and rng.random() < 0.5:
        record = inner = json.loads(data)
        key = str(rng.choice(sorted(inner)))
        if isinstance(inner[key], dict) and inner[key]:
            inner = inner[key]
            key = str(rng.choice(sorted(inner)))
        inner[key] = OTHERS[rng.integers(len(OTHERS))]
        return json.dumps(record).encode()
    if rng.random() < 0.4:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    # What tells of the rest stands at the beginning.
    span = min(len(data), 256) if rng.random() < 0.6 else len(data)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(span)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def answer_nothing() -> None:
    """Leaves out of `dpt predict` what comes after all files are read: to compile takes seconds."""
    from dpt_jax.inference import Predictor

    Predictor._generate = lambda self, tokens, names, length: [""] * len(tokens)


def complaint(argv: list[str]) -> str | None:
    """What is wrong with how a command ends; None where it took its input, or refused it."""
    output, errors = io.StringIO(), io.StringIO()

    def late(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(argv)
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    said = [line for line in errors.getvalue().splitlines() if not line.startswith("converted ")]
    if status == 0 or (status == 2 and len(said) == 1 and "error: " in said[0]):
        return None
    return f"status {status}: {errors.getvalue()}"


def run(folder: pathlib.Path, seed: int, count: int) -> None:
    """Tries `count` inputs, the formats in turn."""
    os.chdir(folder)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        whole = targets(folder)
    answer_nothing()
    for target in whole:
        if said := complaint(target.argv):
            print(json.dumps({"whole": str(target.file), "argv": target.argv, "said": said}))
        shutil.rmtree(folder / "out", ignore_errors=True)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    rng = np.random.default_rng(seed)
    slowest, slow = 0.0, whole[0]
    for number in range(count):
        target = whole[number % len(whole)]
        kept = target.file.read_bytes()
        target.file.write_bytes(damaged(target.file.name, kept, rng))
        began = time.monotonic()
        print(json.dumps({"number": number, "argv": target.argv}), flush=True)
        said = complaint(target.argv)
        if time.monotonic() - began > slowest:
            slowest, slow = time.monotonic() - began, target
        if said:
            found = {"file": str(target.file), "bytes": target.file.read_bytes().hex()[:4000]}
            print(json.dumps({**found, "argv": target.argv, "said": said}), flush=True)
        target.file.write_bytes(kept)
        shutil.rmtree(folder / "out", ignore_errors=True)
    ended = {"tried": count, "targets": len(whole), "slowest": f"{slow.file}: {slowest:.1f} s"}
    print(json.dumps(ended))


if __name__ == "__main__":
    run(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
