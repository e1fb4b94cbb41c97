"""Attention laid over images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dpt_jax.analysis import panels


def overlays(
    images: np.ndarray,
    attention: Float[np.ndarray, "images layers patches"],
    masks: np.ndarray | None,
    titles: Sequence[str],
    path: pathlib.Path,
) -> None:
    """Draws a row for each image: itself, and each layer's attention over it.

    Args:
      images: uint8 pixels, `[images, height, width, channels]`.
      attention: weights on patches, row by row.
      masks: relevant pixels, whose edge is drawn; None where they are not known.
      titles: of the rows.
      path: the PNG to write.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(
        (1.15 * (1 + attention.shape[1]) + 0.4, 1.25 * len(images) + 0.4), layout="constrained"
    )
    axes = figure.subplots(len(images), 1 + attention.shape[1], squeeze=False)
    grid = round(attention.shape[-1] ** 0.5)
    for row, (image, layers) in enumerate(zip(images, attention, strict=True)):
        shown = image[..., 0] if image.shape[-1] == 1 else image
        extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
        for column, one in enumerate(axes[row]):
            one.set_xticks([])
            one.set_yticks([])
            one.imshow(shown, cmap="gray", vmin=0, vmax=255)
            if column:
                weights = layers[column - 1].reshape(grid, grid)
                one.imshow(weights, cmap="inferno", alpha=0.6, extent=extent, vmin=0)
            if masks is not None and not masks[row].all():
                one.contour(masks[row].astype(float), [0.5], colors="cyan", linewidths=0.8)
            if not row:
                one.set_title(f"layer {column}" if column else "image", fontsize=8)
        axes[row][0].set_ylabel(titles[row], fontsize=7)
    panels.save(figure, path)


def strips(
    labels: Sequence[Sequence[str]],
    attention: Sequence[Mapping[str, Float[np.ndarray, "layers keys"]]],
    path: pathlib.Path,
) -> None:
    """Draws a row for each text, and in it a map of layers and keys for each of who asks.

    Args:
      labels: of each text, what is attended to.
      attention: of each text, the weights by who asks.
      path: the PNG to write.
    """
    import matplotlib.figure

    names, longest = list(attention[0]), max(map(len, labels))
    figure = matplotlib.figure.Figure(
        (len(names) * (0.17 * longest + 1.0), 1.7 * len(labels) + 0.4), layout="constrained"
    )
    axes = figure.subplots(len(labels), len(names), squeeze=False)
    for row, (keys, found) in enumerate(zip(labels, attention, strict=True)):
        for one, name in zip(axes[row], names, strict=True):
            layers = found[name]
            edges = (0.5, len(keys) + 0.5, len(layers) + 0.5, 0.5)
            one.imshow(layers, cmap="inferno", aspect="auto", vmin=0, extent=edges)
            one.set_xticks(range(1, len(keys) + 1), keys, rotation=90, fontsize=6)
            one.set_yticks(range(1, len(layers) + 1))
            one.set_ylabel("layer", fontsize=7)
            if not row:
                one.set_title(f"{name} attends to", fontsize=8)
    panels.save(figure, path)


def chart(
    found: Mapping[str, Any], path: pathlib.Path, what: str = "what is relevant", of: str = "area"
) -> None:
    """Draws the ratio of every layer, with intervals, for each of several selections by name."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure((5.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, one in found.items():
        layers = np.arange(1, len(one.by_layer) + 1)
        (line,) = axes.plot(layers, one.by_layer, marker="o", label=name)
        axes.fill_between(layers, one.low, one.high, alpha=0.2, color=line.get_color())
    axes.axhline(1, color="0.5", linewidth=0.8)
    axes.set_xticks(range(1, 1 + max(len(one.by_layer) for one in found.values())))
    axes.set_xlabel("layer")
    axes.set_ylabel(f"attention on {what},\nover its share of the {of}")
    axes.legend(fontsize=7)
    panels.save(figure, path)
