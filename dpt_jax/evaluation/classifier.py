"""What a classifier of images answers, and how often it is right."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from dpt_jax.data.images.batches import evaluation_batches
from dpt_jax.data.images.examples import Images
from dpt_jax.devices import agreement, partitioning
from dpt_jax.training.problem import TaskResult
from dpt_jax.training.state import Params

# (parameters, uint8 images) -> logits
Logits = Callable[[Params, Any], jax.Array]


class Classifier:
    """Evaluates parameters on a split of images.

    Attributes:
      images: the split.
    """

    def __init__(self, logits: Logits, images: Images, mesh: Mesh, size: int, batch_size: int):
        """Takes what to evaluate with; nothing is computed yet.

        Args:
          logits: the network.
          images: the split.
          mesh: the devices.
          size: height and width that the network takes.
          batch_size: images at once.
        """
        self.images, self._mesh, self._size, self._rows = images, mesh, size, batch_size
        self._logits = jax.jit(logits, out_shardings=partitioning.replicated(mesh))

    def probabilities(self, params: Params) -> Float[np.ndarray, "images classes"]:
        """The probability of each class for each image, float32."""
        found = []
        with partitioning.activate(self._mesh):
            for indices, batch in evaluation_batches(self.images, self._size, self._rows):
                placed = partitioning.put_whole_batch(batch, self._mesh)
                logits = self._logits(params, placed["images"])
                found.append(np.asarray(jax.nn.softmax(logits))[: len(indices)])
        return np.concatenate(found)

    def __call__(self, params: Params, task: str) -> TaskResult:
        """Accuracy, the mean cross-entropy, and a record of every image.

        Args:
          params: the network's parameters.
          task: how the result is called.
        """
        probabilities = self.probabilities(params)
        images, answers = self.images, probabilities.argmax(axis=-1)
        true = probabilities[np.arange(len(images)), images.labels]
        metrics = {
            "accuracy": float(np.mean(answers == images.labels)),
            "cross_entropy": float(-np.mean(np.log(np.maximum(true, 1e-30)))),
        }
        records = []
        if agreement.is_first():
            records = [
                {
                    "id": name,
                    "target": images.classes[label],
                    "prediction": images.classes[answer],
                    "probability": round(float(row[answer]), 6),
                }
                for name, label, answer, row in zip(
                    images.ids, images.labels, answers, probabilities, strict=True
                )
            ]
        return TaskResult(task, metrics, records)
