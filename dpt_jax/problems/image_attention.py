"""What the prompts of a run on images attend to, against what they would without training."""

import dataclasses
from typing import Any

import jax
import numpy as np

from dpt_jax.analysis import relevance
from dpt_jax.analysis.relevance import Selection
from dpt_jax.data.contextual.tiling import patch_shares
from dpt_jax.data.images.augment import centre
from dpt_jax.data.images.examples import Images
from dpt_jax.errors import InputError
from dpt_jax.evaluation.vit_attention import PatchAttention, patch_attention, query_alignment
from dpt_jax.models.vit import VisionTransformer
from dpt_jax.models.vit.pixels import normalize
from dpt_jax.problems.images import PreparedImages
from dpt_jax.tensors import Params

# What is compared: the prompts of the run, the same before training, CLS of the run, and CLS of the
# frozen ViT without prompts.
PROMPTS, UNTRAINED, CLS, BARE = "prompts", "untrained prompts", "CLS", "CLS of the frozen ViT"


@dataclasses.dataclass(frozen=True)
class Found:
    """Attention of a run on some images of a split.

    Attributes:
      images: those of which a part is relevant.
      masks: their relevant pixels, as far as the network sees them.
      trained: the run's attention on them.
      selections: what is selected, by the names above, and each "…, shuffled masks" with it.
      alignment: of the prompts and the untrained ones, `[heads, prompts]` each: the cosine of what
        they ask for in the first layer with what tells relevant patches from others.
    """

    images: Images
    masks: np.ndarray
    trained: PatchAttention
    selections: dict[str, Selection]
    alignment: dict[str, np.ndarray]


def measure(prepared: PreparedImages, params: Params, split: str, count: int) -> Found:
    """Measures attention on the first images of a split of which a part is relevant.

    Args:
      prepared: the run.
      params: its trained parameters, with the frozen ones.
      split: whose images.
      count: how many images at most.

    Raises:
      InputError: when the split does not say what is relevant.
    """
    config = prepared.config
    images = prepared.held_out(split)
    if images.relevant is None:
        raise InputError(
            f"{config.data.name} does not say which part of an image is relevant. Contextual sets "
            "do (dpt_jax.data.contextual); train on one of these."
        )
    size, patch = config.model.image_size, config.model.patch_size
    chosen = relevance.informative(patch_shares(centre(images.relevant, size), patch))[:count]
    if len(chosen) < 2:
        raise InputError(
            f"{config.data.name} ({split}): in {len(chosen)} images a part is relevant, and not "
            "all or nothing; two or more are needed. Name another --split, or another data set."
        )
    images = images.take(chosen)
    assert images.relevant is not None
    masks = centre(images.relevant, size)
    shares = patch_shares(masks, patch)
    pixels = np.asarray(normalize(centre(images.pixels, size), config.image_mean, config.image_std))
    model = prepared.model
    trained = patch_attention(model, params, pixels)
    bare = VisionTransformer(model.config)
    start = prepared.placed
    attention: dict[str, Any] = {
        PROMPTS: trained.prompts,
        UNTRAINED: None,
        CLS: trained.cls,
        BARE: patch_attention(bare, _without_own(start), pixels).cls,
    }
    alignment = {}
    if trained.prompts is not None:
        for name, own in ((PROMPTS, params), (UNTRAINED, start)):
            alignment[name] = query_alignment(model, own, pixels, shares)
        attention[UNTRAINED] = patch_attention(model, start, pixels).prompts
    selections = {}
    for name, weights in attention.items():
        if weights is not None:
            selections[name] = relevance.selection(weights, shares)
            selections[f"{name}, shuffled masks"] = relevance.null(weights, shares)
    return Found(images, masks, trained, selections, alignment)


def _without_own(params: Params) -> Params:
    own = ("prompt", "prompt_head", "prefix")
    return jax.tree.map(lambda x: x, {k: v for k, v in params.items() if k not in own})
