"""A backbone of a few thousand parameters, and runs of the toy task on it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpt_jax import interop
from dpt_jax.models import T5Config, Transformer
from dpt_jax.prompts import DecomposedPrompt
from dpt_jax.training.config import RunConfig

WIDTH, PROMPT_LENGTH, BOTTLENECK = 16, 4, 2
# Every size that a mesh may split is a multiple of 8.
SIZES = {
    "vocab_size": 264,
    "num_heads": 8,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "head_dim": 4,
    "mlp_dim": 32,
}
T5 = T5Config(emb_dim=WIDTH, dropout_rate=0.0, **SIZES)
GIN = f"""
from __gin__ import dynamic_registration
from dpt_jax import models
EMBED_DIM = {WIDTH}
DROPOUT_RATE = 0.0
MODEL = @models.T5Config()
models.T5Config:
  emb_dim = %EMBED_DIM
  dropout_rate = %DROPOUT_RATE
""" + "".join(f"  {name} = {value}\n" for name, value in SIZES.items())


def random_parameters(seed: int = 3):
    """Parameters of the tiny T5, with a sharper output than a fresh T5's."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    init = jax.jit(lambda key: Transformer(T5).init(key, tokens, tokens, tokens)["params"])
    params = jax.tree.map(np.array, init(jax.random.key(seed)))
    params["decoder"]["logits_dense"]["kernel"] *= 10.0
    return params


def save_backbone(folder: pathlib.Path) -> pathlib.Path:
    """Writes the tiny T5 and its gin file into `folder`; returns where the T5 is."""
    (folder / "tiny.gin").write_text(GIN)
    interop.save_backbone(folder / "backbone", T5, random_parameters())
    return folder / "backbone"


def run_config(model_dir, backbone, **changes) -> RunConfig:
    """A decomposed prompt on the toy task: 90 examples, 6 steps per epoch, 1 bucket."""
    fields = {
        "model_dir": str(model_dir),
        "model": T5,
        "prompt": DecomposedPrompt(PROMPT_LENGTH, WIDTH, BOTTLENECK),
        "initial_checkpoint_path": str(backbone),
        "mixture_or_task_name": "toy_x",
        "mixture_or_task_module": "tests.support.toy_tasks",
        "task_feature_lengths": {"inputs": 64, "targets": 6},
        "train_steps": 12,
        "num_buckets": 1,
    }
    return RunConfig(**fields | changes)


def arguments(model_dir, backbone, prompt="prompts/decomposed.gin", **macros) -> list[str]:
    """The command line of the same run; `macros` are Python values."""
    values = {
        "MODEL_DIR": str(model_dir),
        "INITIAL_CHECKPOINT_PATH": str(backbone),
        "MIXTURE_OR_TASK_NAME": "toy_x",
        "MIXTURE_OR_TASK_MODULE": "tests.support.toy_tasks",
        "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 6},
        "PROMPT_LENGTH": PROMPT_LENGTH,
        "BOTTLENECK": BOTTLENECK,
        "TRAIN_STEPS": 12,
        "NUM_BUCKETS": 1,
    }
    files = ["runs/prompt_train.gin", str(pathlib.Path(backbone).parent / "tiny.gin"), prompt]
    return [
        "train",
        *(f"--gin_file={file}" for file in files),
        *(f"--gin.{name}={value!r}" for name, value in (values | macros).items()),
    ]


def metrics(model_dir) -> list[dict]:
    """The lines of metrics.jsonl."""
    lines = (pathlib.Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def tensorboard(model_dir) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: steps and numbers by tag."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(model_dir), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def logged(model_dir) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl, in float32."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in metrics(model_dir):
        prefix = "/".join(filter(None, (line["split"], line["task"])))
        for name in line.keys() - {"step", "split", "task"}:
            value = float(np.float32(line[name]))
            found.setdefault(f"{prefix}/{name}", []).append((line["step"], value))
    return found


def prompt(model_dir, step) -> np.ndarray:
    """An exported prompt of a run."""
    folder = pathlib.Path(model_dir) / "numpy_checkpoints" / f"checkpoint_{step}"
    return np.load(folder / "prompt.npy")


def exported(model_dir, step) -> dict[str, np.ndarray]:
    """The plain arrays that a run has exported: of its prompt, and of its prefix."""
    folder = pathlib.Path(model_dir) / "numpy_checkpoints" / f"checkpoint_{step}"
    found = {path.name: np.load(path) for path in folder.glob("prompt.npy")}
    for path in folder.glob("prefix.npz"):
        with np.load(path) as arrays:
            found |= {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    return found


def same_results(model_dir, expected, step) -> None:
    """Asserts losses and metrics within 1e-5, line by line, and a prompt within 1e-4."""
    for ours, theirs in zip(metrics(model_dir), metrics(expected), strict=True):
        for key in ("step", "task", "loss", "learning_rate", "accuracy"):
            assert ours.get(key) == pytest.approx(theirs.get(key), abs=1e-5), (model_dir, key)
    np.testing.assert_allclose(prompt(model_dir, step), prompt(expected, step), atol=1e-4)


def contents(folder) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of every file but the lock, to show that nothing was touched."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
