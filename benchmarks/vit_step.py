"""One training step of VPT-deep on a ViT: ours against PyTorch with Transformers' ViT.

    python benchmarks/vit_step.py

ViT-B/16 with random weights, 10 prompts in every layer, a head of 100 classes, 8 images of 224 x
224, float32, SGD with momentum, 2 threads. The sides take turns, each in its own process. Both
train the same numbers: prompts and head.

The last line is a JSON object:
  step_seconds, torch_step_seconds     medians over the turns.
  ratio                                the median of each turn's torch over ours.
  peak_memory_bytes, torch_peak_memory_bytes
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import statistics
import sys
from typing import Any

import numpy as np
import processes

PROMPTS, CLASSES, RATE, MOMENTUM = 10, 100, 0.1, 0.9
SIDES = ("ours", "torch")


@dataclasses.dataclass(frozen=True)
class Size:
    """A ViT and its batch."""

    image_size: int = 224
    patch_size: int = 16
    emb_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    batch_size: int = 8


TINY = Size(16, 8, 16, 2, 2, 32, 2)


def make_batch(size: Size) -> dict[str, np.ndarray]:
    """Random images and labels, as a run has them."""
    rng = np.random.default_rng(0)
    shape = (size.batch_size, size.image_size, size.image_size, 3)
    return {
        "images": rng.integers(0, 256, shape, np.uint8),
        "labels": rng.integers(0, CLASSES, size.batch_size).astype(np.int32),
        "weights": np.ones(size.batch_size, np.float32),
    }


class Ours:
    """The parts of our trainer, put together without files."""

    def __init__(self, size: Size):
        import jax
        import optax

        from dpt_jax.data.images import Digits
        from dpt_jax.devices import partitioning
        from dpt_jax.models.vit import ViTConfig, abstract_variables
        from dpt_jax.problems import image_network
        from dpt_jax.problems.image_config import ImageRunConfig
        from dpt_jax.prompts import VanillaPrompt
        from dpt_jax.tensors import aligned_empty
        from dpt_jax.training.state import TrainState, split_params
        from dpt_jax.training.step import make_train_step

        sizes = dataclasses.asdict(size)
        del sizes["batch_size"]
        config = ImageRunConfig(
            model_dir="unused",
            train_steps=1,
            model=ViTConfig(**sizes),
            initial_checkpoint_path=None,
            data=Digits(),
            prompt=VanillaPrompt(PROMPTS),
            prompt_placement="deep",
        )
        model = image_network.model_of(
            config, dataclasses.replace(config.model, num_classes=CLASSES)
        )
        rng = np.random.default_rng(0)

        def draw(leaf):
            # As a file is read: the devices of a CPU then share one copy.
            out = aligned_empty(leaf.shape, leaf.dtype)
            out[...] = 0.02 * rng.standard_normal(leaf.shape, np.float32)
            return out

        params = jax.tree.map(draw, abstract_variables(model)["params"])
        self._mesh = partitioning.make_mesh()
        everywhere = partitioning.replicated(self._mesh)
        params = jax.device_put(params, everywhere)
        trainable, self._frozen = split_params(params, config.trainable_pattern)
        optimizer = optax.sgd(RATE, MOMENTUM)
        self._state = jax.device_put(TrainState.create(trainable, optimizer, 0), everywhere)
        step = make_train_step(image_network.make_loss_fn(model, config), optimizer)
        self._step = jax.jit(step, donate_argnums=0)
        self._activate = functools.partial(partitioning.activate, self._mesh)
        self._put = functools.partial(partitioning.put_batch, mesh=self._mesh)

    def train(self, batch: dict[str, np.ndarray]) -> float:
        """One step; returns the loss."""
        with self._activate():
            self._state, metrics = self._step(self._state, self._frozen, self._put(batch))
        return float(metrics["loss"])


class Theirs:
    """Transformers' ViT; each layer's prompts take their places in a hook."""

    def __init__(self, size: Size, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        config = transformers.ViTConfig(
            image_size=size.image_size,
            patch_size=size.patch_size,
            hidden_size=size.emb_dim,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            intermediate_size=size.mlp_dim,
            num_labels=CLASSES,
        )
        self._torch = torch
        self._model = transformers.ViTForImageClassification(config).eval()
        self._model.requires_grad_(False)
        self._model.classifier.requires_grad_(True)
        prompts = torch.empty(size.num_layers, PROMPTS, size.emb_dim).uniform_(-0.06, 0.06)
        self._prompts = torch.nn.Parameter(prompts)
        for number, layer in enumerate(self._layers()):
            hook = functools.partial(self._prompted, number)
            layer.register_forward_pre_hook(hook, with_kwargs=True)
        trained = [self._prompts, *self._model.classifier.parameters()]
        self._optimizer = torch.optim.SGD(trained, lr=RATE, momentum=MOMENTUM)

    def _layers(self) -> Any:
        vit = self._model.vit
        return vit.layers if hasattr(vit, "layers") else vit.encoder.layer

    def _prompted(self, number: int, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        del module
        x = args[0]
        own = self._prompts[number].expand(len(x), -1, -1)
        rest = x[:, 1:] if number == 0 else x[:, 1 + PROMPTS :]
        return (self._torch.cat([x[:, :1], own, rest], dim=1), *args[1:]), kwargs

    def train(self, batch: dict[str, np.ndarray]) -> float:
        """One step; returns the loss."""
        torch = self._torch
        images = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2).float()
        labels = torch.from_numpy(batch["labels"]).long()
        logits = self._model((images / 255 - 0.5) / 0.5).logits
        loss = torch.nn.functional.cross_entropy(logits, labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())


def serve(side: str, size: Size, threads: int) -> None:
    """The child: steps on demand."""
    processes.use_cores(threads)
    if side == "ours":
        processes.use_one_device_per_core(threads)
    model = Ours(size) if side == "ours" else Theirs(size, threads)
    batch = make_batch(size)
    processes.serve(
        {
            "step": lambda: {"seconds": processes.seconds(lambda: model.train(batch))},
            "memory": lambda: {"bytes": processes.peak_memory_bytes()},
        }
    )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Runs the sides in turn."""
    common = ["--threads", str(options.threads), *(["--tiny"] if options.tiny else [])]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                processes.start(__file__, ["--side", name, *common], options.threads)
            )
            for name in SIDES
        }
        for side in sides.values():
            for _ in range(2):  # Compilation on our side, warm caches and allocators on both.
                side.ask("step")
        for turn in range(options.turns):
            for name, side in sides.items():
                steps = [side.ask("step")["seconds"] for _ in range(options.steps)]
                seconds[name].append(statistics.median(steps))
            last = ", ".join(f"{name} {found[-1]:.3f} s" for name, found in seconds.items())
            print(f"turn {turn + 1}/{options.turns}: {last}", flush=True)
        memory = {name: side.ask("memory")["bytes"] for name, side in sides.items()}
    pairs = zip(seconds["torch"], seconds["ours"], strict=True)
    return {
        "step_seconds": statistics.median(seconds["ours"]),
        "torch_step_seconds": statistics.median(seconds["torch"]),
        "ratio": statistics.median(theirs / ours for theirs, ours in pairs),
        "peak_memory_bytes": memory["ours"],
        "torch_peak_memory_bytes": memory["torch"],
        "threads": options.threads,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each side")
    parser.add_argument("--turns", type=int, default=6, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--tiny", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = TINY if options.tiny else Size()
    if options.side:
        serve(options.side, size, options.threads)
        return
    if importlib.util.find_spec("transformers") is None:
        sys.exit("transformers is not installed: pip install 'dpt-jax[interop]'")
    print(json.dumps(dataclasses.asdict(size)))
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
