"""The embedded default: a tiny pretrained T5 and a generated miniature SuperGLUE.

`dpt_jax.demo.text_tasks` lists the tasks, and `dpt_jax.demo.tasks` registers them with SeqIO;
importing the latter brings TensorFlow in.
"""

import pathlib

from dpt_jax.demo.superglue import TASKS, majority_class

BACKBONE_DIR = pathlib.Path(__file__).parent / "backbone"
"""The pretrained backbone's folder, with its vocabulary in it."""

VOCABULARY = BACKBONE_DIR / "sentencepiece.model"
"""The SentencePiece model that the backbone was pretrained with."""

MIXTURE = "demo_superglue"
"""All tasks of the demo at once, mixed at equal rates."""


def backbone_dir() -> str:
    """`BACKBONE_DIR` as text, to be named in a gin file: it then holds on every machine."""
    return str(BACKBONE_DIR)


def vit_dir() -> str:
    """The folder of the images' demo's pretrained ViT, as text."""
    return str(pathlib.Path(__file__).parent / "vit")


def chance(task: str) -> float:
    """Accuracy on validation, in 0 to 1, of always giving the most frequent training answer."""
    return majority_class(task)[1]


__all__ = ["BACKBONE_DIR", "MIXTURE", "TASKS", "VOCABULARY", "backbone_dir", "chance", "vit_dir"]
