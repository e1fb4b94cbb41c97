"""Pretrains the tiny ViT of the images' demo: `python -m dpt_jax.demo.pretrain_vit --output DIR`.

Trains every parameter on FULL-TILED digits (scikit-learn's, nine times the same digit) by AdamW
with linear warm-up and cosine decay. A tiled image goes on beyond its edges, so that rolling it
gives another view of the same: each training image is rolled anew. Each evaluation writes the
weights to `DIR/step_N`; the last become `DIR/vit` only when the accuracy on validation images
reaches the threshold.
"""

import argparse
import functools
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from dpt_jax.data.contextual import FullTiled
from dpt_jax.data.images import Digits, Images
from dpt_jax.errors import InputError
from dpt_jax.models.vit import VisionTransformer, ViTConfig
from dpt_jax.tensors import BFLOAT16, in_memory

CONFIG = ViTConfig(
    image_size=24,
    patch_size=4,
    channels=1,
    emb_dim=64,
    num_layers=4,
    num_heads=4,
    mlp_dim=128,
    epsilon=1e-6,
    num_classes=10,
)
#: Pixels, 0 to 255, are brought to -1 to 1, as those of a run are.
MEAN = STD = 0.5


def normalized(pixels: np.ndarray) -> np.ndarray:
    """Pixels as the network takes them, float32."""
    return ((pixels / np.float32(255)) - MEAN) / STD


def optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW, weight decay 0.1; a twentieth of the steps warm up, and the rest is a cosine."""
    warmup = max(steps // 20, 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(steps, 2))
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.999, weight_decay=0.1)
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def train_step(model: VisionTransformer, tx: Any, params: Any, state: Any, images, labels):
    """One update; returns the parameters, the optimizer's state and the mean loss."""

    def loss_of(params):
        logits = model.apply({"params": params}, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss


@functools.partial(jax.jit, static_argnums=0)
def _answers(model: VisionTransformer, params, images) -> jax.Array:
    logits: Any = model.apply({"params": params}, images)
    return jnp.argmax(logits, axis=-1)


def accuracy(model: VisionTransformer, params, images: Images) -> float:
    """Share of images whose class is the most probable one."""
    found = _answers(model, params, normalized(images.pixels))
    return float(np.mean(np.asarray(found) == images.labels))


def rolled(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tiled images, each rolled by a draw of its own."""
    size = pixels.shape[1]
    places = np.arange(size)
    rows, columns = ((places + rng.integers(0, size, (len(pixels), 1))) % size for _ in range(2))
    return pixels[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]


def save(folder: pathlib.Path, params) -> None:
    """Writes a new folder of a ViT; the weights are stored as bfloat16.

    Raises:
      InputError: if the folder exists and is not empty.
    """
    from dpt_jax.interop.vit import write_vit

    flat = flatten_dict(jax.device_get(params), sep="/")
    write_vit(folder, CONFIG, {n: in_memory(x.astype(BFLOAT16)) for n, x in flat.items()})


def pretrain(
    output: pathlib.Path,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 48,
    learning_rate: float = 3e-3,
    evaluation_period: int = 100,
    threshold: float = 0.9,
    start: pathlib.Path | None = None,
) -> dict[str, float]:
    """Pretrains and writes the ViT; see the module's docstring.

    Returns:
      Its accuracy on the images of each split, in the order of `train`, `validation`, `test`.
      `output/vit` exists if and only if that of `validation` reaches `threshold`.

    Raises:
      InputError: when `output` holds something.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(
            f"--output: {output} exists and is not empty. Name a new folder; --start goes on from "
            "the weights of an earlier one."
        )
    splits = {s: FullTiled(Digits()).load(s, None, 1) for s in ("train", "validation", "test")}
    train = splits["train"]
    model, tx = VisionTransformer(CONFIG), optimizer(learning_rate, steps)
    blank = jnp.zeros((1, CONFIG.image_size, CONFIG.image_size, CONFIG.channels))
    params = jax.jit(model.init)(jax.random.key(seed), blank)["params"]
    if start is not None:
        from dpt_jax.interop.vit import open_vit

        stored = {n: np.asarray(t.load(), np.float32) for n, t in open_vit(start).tensors.items()}
        params = unflatten_dict(stored, sep="/")
    state = jax.jit(tx.init)(params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{count:,} parameters, {steps} steps of {batch_size} images, seed {seed}", flush=True)
    rng, began = np.random.default_rng(seed), time.perf_counter()
    for step in range(1, steps + 1):
        chosen = rng.choice(len(train), batch_size)
        images = normalized(rolled(train.pixels[chosen], rng))
        params, state, loss = train_step(model, tx, params, state, images, train.labels[chosen])
        if step % evaluation_period == 0 or step == steps:
            held_out = accuracy(model, params, splits["validation"])
            seconds = time.perf_counter() - began
            shown = f"step {step} loss {loss:.4f} held out {held_out:.3f} {seconds:.0f} s"
            print(shown, flush=True)
            save(output / f"step_{step}", params)
    found = {name: accuracy(model, params, images) for name, images in splits.items()}
    if found["validation"] >= threshold:
        save(output / "vit", params)
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs `pretrain` from command line flags; returns 1 where the ViT was not kept."""
    parser = argparse.ArgumentParser(
        prog="python -m dpt_jax.demo.pretrain_vit", description=__doc__
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--start", type=pathlib.Path, help="folder of a ViT to continue from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--evaluation-period", type=int, default=100)
    parser.add_argument("--threshold", type=float, default=0.9)
    args = vars(parser.parse_args(argv))
    found = pretrain(**args)
    print(" ".join(f"{name} {value:.3f}" for name, value in found.items()))
    if found["validation"] < args["threshold"]:
        print(f"Not kept: below {args['threshold']} on validation. Train longer (--steps).")
        return 1
    print(f"Kept: {args['output'] / 'vit'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
