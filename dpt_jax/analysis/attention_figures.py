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


def chart(found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws the ratio of every layer, with intervals, for each of several selections by name."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure((5.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, one in found.items():
        layers = np.arange(1, len(one.by_layer) + 1)
        (line,) = axes.plot(layers, one.by_layer, marker="o", label=name)
        axes.fill_between(layers, one.low, one.high, alpha=0.2, color=line.get_color())
    axes.axhline(1, color="0.5", linewidth=0.8)
    axes.set_xticks(layers)
    axes.set_xlabel("layer")
    axes.set_ylabel("attention on what is relevant,\nover its share of the area")
    axes.legend(fontsize=7)
    panels.save(figure, path)
