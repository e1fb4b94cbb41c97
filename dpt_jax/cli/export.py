"""Export a run's prompt: the folded prompt as .npy and its factors as .npz.

  dpt export --model_dir=runs/rte --output=rte_prompt

writes rte_prompt/prompt.npy, float32 [P, D], and rte_prompt/prompt_params.npz. An output that ends
in .npy gets the folded prompt alone.
"""

import argparse

HELP = "export a run's prompt as numpy files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="a run's folder")
    parser.add_argument("--step", default="best", metavar="STEP", help="best, latest or a number")
    parser.add_argument("--output", required=True, metavar="PATH", help="a folder, or a .npy file")


def run(args: argparse.Namespace) -> None:
    """Writes the files and prints their paths."""
    from dpt_jax.errors import InputError
    from dpt_jax.interop import load_factors, load_prompt, numpy_checkpoints, save_prompt
    from dpt_jax.training import inference

    step = inference.step_of_run(args.model_dir, args.step)
    folder = numpy_checkpoints(args.model_dir).get(step)
    if folder is None:
        raise InputError(f"{args.model_dir} trained no prompt, so there is none to export.")
    prompt = load_prompt(folder)
    if args.output.endswith(".npy"):
        save_prompt(args.output, prompt)
    else:
        save_prompt(args.output, prompt, load_factors(folder))
    print(args.output)
