"""Runs of the tiny ViT on scikit-learn's digits."""

import pathlib

from dpt_jax.data.images import Digits
from dpt_jax.interop.vit import write_vit
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.prompts import VanillaPrompt
from dpt_jax.training.schedules import constant
from tests.support import vits

GIN = f"""
from __gin__ import dynamic_registration
from dpt_jax.data import images
from dpt_jax.models import vit
EMBED_DIM = {vits.CONFIG.emb_dim}
DATA = @images.Digits()
MODEL = @vit.ViTConfig()
vit.ViTConfig:
  emb_dim = %EMBED_DIM
""" + "".join(
    f"  {name} = {getattr(vits.CONFIG, name)}\n"
    for name in ("image_size", "patch_size", "channels", "num_layers", "num_heads", "mlp_dim")
)


def save(folder: pathlib.Path) -> pathlib.Path:
    """Writes the tiny ViT and its gin file into `folder`; returns where the ViT is."""
    (folder / "tiny.gin").write_text(GIN)
    write_vit(folder / "vit", vits.CONFIG, vits.tensors())
    return folder / "vit"


def config(model_dir, vit, **changes) -> ImageRunConfig:
    """A prompt at the input, five images of each class."""
    fields = {
        "model_dir": str(model_dir),
        "model": vits.CONFIG,
        "initial_checkpoint_path": None if vit is None else str(vit),
        "data": Digits(),
        "prompt": VanillaPrompt(3),
        "shots": 5,
        "train_steps": 6,
        "eval_period": 3,
        "batch_size": 16,
        "eval_batch_size": 100,
        "learning_rate": lambda steps: constant(steps, 0.01),
    }
    return ImageRunConfig(**fields | changes)


def arguments(model_dir, vit, *files, **macros) -> list[str]:
    """The command line of the same run; `macros` are Python values."""
    values = {
        "MODEL_DIR": str(model_dir),
        "INITIAL_CHECKPOINT_PATH": str(vit),
        "PROMPT_LENGTH": 3,
        "SHOTS": 5,
        "TRAIN_STEPS": 6,
        "EVAL_PERIOD": 3,
        "BATCH_SIZE": 16,
        "EVAL_BATCH_SIZE": 100,
    }
    tiny = str(pathlib.Path(vit).parent / "tiny.gin")
    return [
        "train",
        *(f"--gin_file={file}" for file in ("runs/image_train.gin", tiny, *files)),
        *(f"--gin.{name}={value!r}" for name, value in (values | macros).items()),
    ]
