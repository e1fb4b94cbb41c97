"""The token ids that a Hugging Face folder gives a meaning of their own.

T5 pads with 0, ends with 1 and starts its decoder from 0. Batches, masks, decoding, SeqIO's
converters and T5X are built on these three, so that a model with others is refused.
"""

from collections.abc import Mapping
from typing import Any

from dpt_jax.errors import SETTING, InputError

_OF_T5 = {
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    # With which Transformers' `generate` has every answer begin.
    "forced_bos_token_id": None,
}


def check_special_ids(stated: Mapping[str, Any], where: str) -> None:
    """Refuses a model whose special ids are not those of T5.

    Args:
      stated: the contents of `config.json` or `generation_config.json`; what they leave out, or
        give as null, is as T5 has it.
      where: the file, for the message.

    Raises:
      InputError: names the first id that differs, and both values.
    """
    for name, value in _OF_T5.items():
        found = stated.get(name)
        # One end token may also be written as a list.
        if found is None or found == value or found == [value]:
            continue
        known = "without it" if value is None else f"with {value}"
        raise InputError(
            f"{where} says {name} {found}, but only T5s {known} can be trained and decoded here. "
            f"If the model was not trained with {found}, correct that file; otherwise change "
            f"{SETTING}."
        )
