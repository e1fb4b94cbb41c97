"""Show what the prompts of a run attend to, or what attends to them.

  dpt attention runs/partial_deep                       # a run on images
  dpt attention runs/partial_deep --split=test --rows=400 --output=attention
  dpt attention runs/question                           # a run on text

On images, for every layer: the share of attention on the patches that are relevant, over their
share of the area; 1 is no selection. Beside the trained prompts stand the same prompts before
training, CLS of the run and CLS of the frozen ViT without prompts, each with its 95 % bootstrap
interval over images and with the masks of other images in the place of its own (what position alone
gives). Of the first layer, where a prompt asks the same of every image, the cosine is told of what
it asks for with the mean relevant patch less the mean other one. A run with a prefix has CLS alone:
a prefix does not ask.

On text: the share of attention on prompt and prefix, over their share of the keys; 1 is what even
attention has, and the rest is on the tokens. The encoder's prompt and text ask, and the decoder;
each is told before training, too.

attention.json has every head. attention.png lays the attention over examples, layer by layer, and
selection.png draws the table; dpt report shows both.
"""

import argparse
import json
from typing import Any

from dpt_jax.cli import outputs
from dpt_jax.cli.console import print_table

HELP = "show what the prompts of a run attend to, or what attends to them"
# Rows of attention.png.
_SHOWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="the folder of a run")
    parser.add_argument(
        "--step", default="best", metavar="STEP", help="best, latest or a number (default: best)"
    )
    parser.add_argument("--split", metavar="NAME", help="whose rows (default: the run's own)")
    parser.add_argument(
        "--rows",
        "--images",
        type=int,
        default=400,
        metavar="N",
        help="how many images or rows of text at most (default: 400)",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="where pictures go (default: MODEL_DIR/attention)"
    )


def run(args: argparse.Namespace) -> None:
    """Measures, draws and prints."""
    from dpt_jax import run_files
    from dpt_jax.cli import runs
    from dpt_jax.errors import InputError
    from dpt_jax.paths import as_path

    if args.rows < 2:
        raise InputError(f"--rows is {args.rows}; it takes at least 2.")
    config = runs.load_config(argparse.Namespace(**vars(args), gin_file=[], gin_search_paths=[]))
    output = args.output or as_path(args.model_dir) / run_files.ATTENTION
    folder = outputs.require_folder(str(output), "--output")
    if runs.is_of_images(config):
        _of_images(args, config, folder)
    else:
        _of_text(args, config, folder)
    print(f"\nWritten: {folder / 'attention.json'}, attention.png, selection.png")


def _of_images(args: argparse.Namespace, config: Any, folder: Any) -> None:
    from dpt_jax.problems import image_attention, trained_images

    step = trained_images.step_of(args.model_dir, args.step)
    prepared, params = trained_images.load(config, args.model_dir, step)
    found = image_attention.measure(prepared, params, args.split or config.eval_split, args.rows)
    write(folder, found, step)
    _print(
        found.selections,
        f"Attention on what is relevant, over its share of the area; {len(found.images)} images, "
        f"step {step}",
    )
    for name, cosines in found.alignment.items():
        print(
            f"First layer, {name}: cosine with what is relevant {cosines.mean():+.3f}, absolute "
            f"{abs(cosines).mean():.3f}"
        )


def _of_text(args: argparse.Namespace, config: Any, folder: Any) -> None:
    from dpt_jax import inference
    from dpt_jax.analysis import attention_figures
    from dpt_jax.problems import text_attention

    step = inference.step_of_run(args.model_dir, args.step)
    prepared = inference.prepare_for(config, args.model_dir)
    split = args.split or config.eval_split
    untrained, _ = prepared.adapter(prepared.placed | prepared.initial())
    start = text_attention.measure(prepared, untrained, split, args.rows)
    inference.with_trained(prepared, args.model_dir, step)
    adapter = inference.adapter_of_run(config, args.model_dir, step)
    trained = text_attention.measure(prepared, adapter, split, args.rows)
    selections = trained.selections | {
        f"{name}, untrained": one for name, one in start.selections.items()
    }
    told = {
        "step": step,
        "rows": trained.rows,
        "selections": {name: one.to_json() for name, one in selections.items()},
        "shares": {name: share.tolist() for name, share in trained.shares.items()},
    }
    _write_json(folder, told)
    attention_figures.chart(selections, folder / "selection.png", "prompt and prefix", "keys")
    attention_figures.strips(
        [one.labels for one in trained.examples],
        [one.attention for one in trained.examples],
        folder / "attention.png",
    )
    _print(
        selections,
        f"Attention on prompt and prefix, over their share of the keys; {trained.rows} rows of "
        f"{split}, step {step}",
    )


def _print(selections: Any, title: str) -> None:
    layers = max(len(one.by_layer) for one in selections.values())
    rows = [
        [name, *(f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in _layers(one))]
        for name, one in selections.items()
    ]
    print_table(
        ["asks", *(f"layer {i + 1}" for i in range(layers))],
        [[*row, *[""] * (1 + layers - len(row))] for row in rows],
        title=title,
    )


def _layers(one: Any) -> Any:
    return zip(one.by_layer, one.low, one.high, strict=True)


def write(folder: Any, found: Any, step: int) -> None:
    """Writes `attention.json`, `attention.png` and `selection.png` into a folder."""
    from dpt_jax.analysis import attention_figures

    told = {
        "step": step,
        "images": len(found.images),
        "selections": {name: one.to_json() for name, one in found.selections.items()},
        "alignment": {name: cosines.tolist() for name, cosines in found.alignment.items()},
    }
    _write_json(folder, told)
    attention_figures.chart(found.selections, folder / "selection.png")
    draw_examples(folder / "attention.png", found)


def _write_json(folder: Any, told: dict[str, Any]) -> None:
    from dpt_jax.files import write_text

    write_text(folder / "attention.json", json.dumps(told, indent=2) + "\n")


def draw_examples(path: Any, found: Any) -> None:
    """Draws some images with the attention of the prompts, or else of CLS, over them."""
    from dpt_jax.analysis import attention_figures
    from dpt_jax.data.images.augment import centre

    shown = found.images.take(range(min(_SHOWN, len(found.images))))
    asking = found.trained.prompts if found.trained.prompts is not None else found.trained.cls
    size = found.masks.shape[1]
    attention_figures.overlays(
        centre(shown.pixels, size),
        asking[: len(shown)].mean(axis=2),
        found.masks[: len(shown)],
        [shown.classes[label] for label in shown.labels],
        path,
    )
