"""`config.json` of Hugging Face's T5, read into a `T5Config` and written from one."""

import math
from collections.abc import Mapping
from typing import Any

from dpt_jax.errors import SETTING, InputError
from dpt_jax.models import T5Config

_CLASSES = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
}
# What the network has built in, as config.json spells it.
_FIXED = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
# What is written where the folder that a model came from did not say otherwise.
_DEFAULTS = {
    "model_type": "t5",
    "dropout_rate": 0.1,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_factor": 1.0,
    "use_cache": True,
}
# Each says something of the one folder it lies in, not of the model.
_NOT_KEPT = ("_name_or_path", "torch_dtype", "transformers_version")


def config_from_hugging_face(raw: Mapping[str, Any], where: str) -> T5Config:
    """Makes a `T5Config` of the contents of a T5's `config.json`.

    `logits_via_embedding` is what the file says; whether the weights agree is seen when they are
    opened. Dropout is the user's choice and starts at 0.

    Raises:
      InputError: another kind of model, or a T5 that the network does not know.
    """
    kind = raw.get("model_type")
    if kind not in _CLASSES:
        raise InputError(
            f"{where}: config.json says model_type {kind!r}; known are 't5' (T5 1.0 and 1.1, "
            f"LM-adapted, Flan, ByT5), 'mt5' and 'umt5'. Change {SETTING}."
        )
    if raw.get("is_encoder_decoder") is False:
        classes = ", ".join(raw.get("architectures") or ()) or "half a T5"
        raise InputError(
            f"{where}: config.json says is_encoder_decoder false ({classes}), but a whole T5 with "
            f"an encoder and a decoder is needed. Change {SETTING}."
        )
    for name, value in _FIXED.items():
        stated = raw.get(name, value)
        if not (isinstance(stated, int | float) and math.isclose(stated, value)):
            raise InputError(f"{where}: config.json says {name} {stated}; only {value} is known.")
    activations = _mlp_activations(raw, where)
    try:
        layers, decoder_layers = raw["num_layers"], raw.get("num_decoder_layers")
        return T5Config(
            vocab_size=raw["vocab_size"],
            emb_dim=raw["d_model"],
            num_heads=raw["num_heads"],
            num_encoder_layers=layers,
            num_decoder_layers=layers if decoder_layers is None else decoder_layers,
            head_dim=raw["d_kv"],
            mlp_dim=raw["d_ff"],
            mlp_activations=activations,
            dropout_rate=0.0,
            logits_via_embedding=_scales_outputs(raw),
            relpos_bias_per_layer=kind == "umt5",
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: config.json does not describe a T5: {error}.") from error


def config_to_hugging_face(
    config: T5Config, dtype: str, origin: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The contents of a `config.json` that Transformers 4 and 5 load to the same network.

    Args:
      config: the network.
      dtype: the name of the dtype that its weights are stored in.
      origin: the `config.json` that the model came with; what it says beyond the network, such as
        token ids and mT5's own class, is kept.

    Raises:
      InputError: Transformers has no T5 with such an MLP.
    """
    mlps = {activations: name for name, activations in _ACTIVATIONS.items()}
    if config.mlp_activations not in mlps:
        raise InputError(
            f"mlp_activations are {config.mlp_activations}; Hugging Face's T5 has "
            f"{', '.join(str(known) for known in mlps)}."
        )
    origin = {name: value for name, value in (origin or {}).items() if name not in _NOT_KEPT}
    tied = config.logits_via_embedding
    # The class of mT5 does not multiply the output of a tied decoder by 1/sqrt(D).
    kind = "t5" if tied else origin.get("model_type", "t5")
    kind = "umt5" if config.relpos_bias_per_layer else kind
    return {
        **_DEFAULTS,
        **origin,
        **_FIXED,
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "feed_forward_proj": mlps[config.mlp_activations],
        # Version 4 ties and scales by the first. Version 5 scales by the second, and ties unless
        # the weights hold two different tables.
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "dtype": dtype,
    }


def _mlp_activations(raw: Mapping[str, Any], where: str) -> tuple[str, ...]:
    # The classes differ in their default.
    default = "relu" if raw["model_type"] == "t5" else "gated-gelu"
    name = raw.get("feed_forward_proj", default)
    if name not in _ACTIVATIONS:
        raise InputError(
            f"{where}: config.json says feed_forward_proj {name!r}; known are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    gated = name.startswith("gated-")
    function = "gelu_new" if name == "gated-gelu" else name.removeprefix("gated-")
    # Transformers derives these two from the name, but goes by what config.json says of them.
    for key, derived in (("is_gated_act", gated), ("dense_act_fn", function)):
        if raw.get(key, derived) != derived:
            raise InputError(
                f"{where}: config.json says {key} {raw[key]!r}, but feed_forward_proj {name!r}, "
                f"which is {derived!r}. Make the two agree there, or change {SETTING}."
            )
    return _ACTIVATIONS[name]


def _scales_outputs(raw: Mapping[str, Any]) -> bool:
    # T5 1.0 multiplies the decoder's output by 1/sqrt(D), T5 1.1 does not. Transformers once took
    # this from tie_word_embeddings; since version 5 it writes that as true for every T5, and the
    # scale as an entry of its own. Its umT5 does the same, its mT5 has neither.
    if raw.get("model_type") == "mt5":
        return False
    return bool(raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True) is not False))
