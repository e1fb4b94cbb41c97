"""Convert a pretrained T5 or ViT between formats.

  dpt convert /models/flan-t5-large /models/flan_t5_large
  dpt convert gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000 t5_1_1_base
  dpt convert t5_1_1_base t5_1_1_base_hf --to hf --dtype bfloat16
  dpt convert ViT-B_16.npz vit_b16

SOURCE is a folder of Hugging Face (safetensors or pytorch_model.bin), a T5X checkpoint in the
released (zarr) format or in Orbax format, on a disk or in a bucket, or our own folder; of a ViT
also a .npz of google-research's. It is told by looking inside. One parameter at a time is in
memory, so that a model of any size can be converted. TARGET appears when it is whole.
"""

import argparse
import sys

from dpt_jax.cli.console import human_bytes, say
from dpt_jax.cli.gin_flags import refuse_bindings

HELP = "convert a pretrained T5 or ViT between Hugging Face, Google's and our own formats"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, or the URL of a T5X checkpoint")
    parser.add_argument("target", metavar="TARGET", help="the folder to make")
    parser.add_argument(
        "--to",
        choices=("dpt", "hf"),
        default="dpt",
        help="TARGET's format: ours or Hugging Face's (default: dpt)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of every parameter in TARGET (default: as stored)",
    )


def run(args: argparse.Namespace) -> int | None:
    """Converts, and prints what was made."""
    from dpt_jax.errors import path_given_by
    from dpt_jax.interop.conversion import convert
    from dpt_jax.interop.describe import prompt_beside
    from dpt_jax.progress import Progress

    refuse_bindings(args, "dpt convert")
    progress = Progress("converted", shown=human_bytes)
    try:
        with path_given_by("SOURCE"):
            made = convert(args.source, args.target, args.to, args.dtype, progress.update)
    except KeyboardInterrupt:
        print("\ndpt convert: interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        progress.close()
    tensors = made.tensors.values()
    dtypes = " and ".join(sorted({tensor.dtype.name for tensor in tensors}))
    count = sum(tensor.nbytes // tensor.dtype.itemsize for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    print(f"{args.target}: {count:,} parameters, {dtypes}, {human_bytes(nbytes)}")
    if beside := prompt_beside(args.source):
        say(
            f"The prompt beside it ({beside}) stays in {args.source}: "
            f"dpt export --prompt={args.source} --output=FOLDER takes it along."
        )
    return None
