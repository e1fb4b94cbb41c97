"""Weights of vision transformers in and out: our folders, Hugging Face's, Google's `.npz`."""

from dpt_jax.interop.vit.conversion import convert_vit
from dpt_jax.interop.vit.opening import VitBackbone, is_vit, open_vit
from dpt_jax.interop.vit.own_folder import write_vit

__all__ = ["VitBackbone", "convert_vit", "is_vit", "open_vit", "write_vit"]
