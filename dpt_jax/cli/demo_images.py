"""`dpt demo --images`: prompts for a tiny pretrained ViT, on digits in a context.

PARTIAL digits are nine tiles, of which more than half are noise; EMBEDDED digits lie anywhere on a
crop of a photograph. The ViT was pretrained on tiles that are all the same digit.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from dpt_jax.cli import outputs
from dpt_jax.cli.console import print_table

# Method -> gin files and bindings of its own.
METHODS: dict[str, tuple[list[str], list[str]]] = {
    "probe": ([], []),
    "shallow": (["prompts/vanilla_vpt.gin"], []),
    "deep": (["prompts/vanilla_vpt.gin"], ["PROMPT_PLACEMENT = 'deep'"]),
    "deep_decomposed": (
        ["prompts/decomposed_vpt.gin"],
        ["PROMPT_PLACEMENT = 'deep'", "SHARED_A = True", "BOTTLENECK = 2"],
    ),
    "hidden": (["prompts/vanilla_vpt.gin"], ["PROMPT_PLACEMENT = 'hidden'"]),
    "prefix": (["prefixes/simple_shared_vit.gin"], ["PREFIX_LENGTH = 5"]),
    "fine_tuning": ([], ["FINE_TUNE = 'all'", "LEARNING_RATE_PEAK = 0.02"]),
}
SETS = {"partial": "@contextual.PartialTiled()", "embedded": "@contextual.Embedded()"}
# Whose attention is drawn: the first of these that was trained.
_DRAWN = ("deep", "hidden", "deep_decomposed", "shallow")


def run(args: argparse.Namespace, methods: Sequence[str], sets: Sequence[str]) -> None:
    """Trains every method on every set, then writes and prints the results."""
    from dpt_jax import gin_utils
    from dpt_jax.files import write_json
    from dpt_jax.problems import images, kinds

    output = outputs.require_folder(args.output, "--output")

    def config_of(method: str, name: str, folder: pathlib.Path) -> Any:
        files, bindings = METHODS[method]
        gin_utils.parse(
            [*files, "runs/demo_images.gin"],
            [
                *bindings,
                f"DATA = {SETS[name]}",
                f"MODEL_DIR = {str(folder)!r}",
                f"RANDOM_SEED = {args.seed}",
                *args.gin_bindings,
            ],
        )
        return kinds.build()

    summary: dict[str, Any] = {"methods": {}, "attention": {}, "seed": args.seed}
    for method in methods:
        results = {
            name: images.train(
                config_of(method, name, output / method / name), gin_utils.operative_config
            )
            for name in sets
        }
        summary["methods"][method] = {
            "trainable_parameters": results[sets[0]]["trainable_parameters"],
            "accuracy": {name: found["best_value"] for name, found in results.items()},
            "train_seconds": round(sum(r["train_seconds"] for r in results.values()), 1),
        }
    drawn = next((method for method in _DRAWN if method in methods), None)
    if drawn:
        folder = output / drawn / sets[0]
        config = config_of(drawn, sets[0], folder)
        summary["attention"] = {
            "method": drawn,
            "set": sets[0],
            "selected": _attention(config, folder, output / "attention.png"),
        }
    write_json(output / "summary.json", summary)
    _print(summary, sets)
    pictures = f", {output / 'attention.png'}" if drawn else ""
    print(f"\nWritten: {output / 'summary.json'}{pictures}")


def _attention(config: Any, folder: pathlib.Path, picture: pathlib.Path) -> dict[str, list[float]]:
    """Draws a run's attention; gives what prompts select in each layer, and untrained ones."""
    from dpt_jax.cli import attention
    from dpt_jax.problems import image_attention, trained_images

    step = trained_images.step_of(folder)
    prepared, params = trained_images.load(config, folder, step)
    found = image_attention.measure(prepared, params, config.eval_split, 100)
    attention.draw_examples(picture, found)
    names = (image_attention.PROMPTS, image_attention.UNTRAINED)
    return {name: found.selections[name].by_layer.round(3).tolist() for name in names}


def _print(summary: dict[str, Any], sets: Sequence[str]) -> None:
    print_table(
        ["method", "parameters", *sets, "seconds"],
        [
            [
                method.replace("_", " "),
                f"{found['trainable_parameters']:,}",
                *(f"{found['accuracy'][name]:.3f}" for name in sets),
                f"{found['train_seconds']:.0f}",
            ]
            for method, found in summary["methods"].items()
        ],
        title="Accuracy on validation images, best evaluation",
    )
    told = summary["attention"]
    if told:
        print_table(
            ["attention", *(f"layer {i + 1}" for i in range(len(told["selected"]["prompts"])))],
            [[name, *(f"{x:.2f}" for x in values)] for name, values in told["selected"].items()],
            title=f"{told['method']} on {told['set']}: attention on the digit, over its share of "
            "the area",
        )
