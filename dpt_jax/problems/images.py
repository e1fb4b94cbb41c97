"""A frozen vision transformer and labelled images, prepared once for training and evaluation."""

import dataclasses
import functools
import logging
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AbstractMesh, Mesh

from dpt_jax import run_files
from dpt_jax.data.images.batches import TrainImages
from dpt_jax.data.images.examples import Images, check_images
from dpt_jax.devices import agreement, partitioning
from dpt_jax.devices.placement import place
from dpt_jax.errors import InputError
from dpt_jax.evaluation.classifier import Classifier
from dpt_jax.files import atomic_folder
from dpt_jax.interop.prefixes import FoldedPrefix
from dpt_jax.interop.vision_export import save_vision
from dpt_jax.interop.vit import VitBackbone, open_vit
from dpt_jax.models.network import fold_prefix
from dpt_jax.models.vit import LayerPrompts, VisionTransformer, ViTConfig, abstract_variables
from dpt_jax.models.vit.pixels import normalize
from dpt_jax.problems.described import describe_method
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.tensors import Params, fingerprint, in_memory
from dpt_jax.training import run_folder, trainer
from dpt_jax.training.problem import Evaluation, Problem
from dpt_jax.training.state import merge_params
from dpt_jax.training.step import LossFn

FINGERPRINT = "backbone_fingerprint"
# Parameters that the frozen ViT does not have.
_OWN = ("head", "prompt_head", "prompt", "prefix")


def train(config: ImageRunConfig, gin_config: Callable[[], str] = str) -> dict[str, Any]:
    """Prepares a run and trains it; arguments, result and errors are those of `trainer.train`."""
    with agreement.raise_everywhere():
        problem = prepare(config).problem()
    return trainer.train(config, problem, gin_config)


def prepare(config: ImageRunConfig, mesh: Mesh | AbstractMesh | None = None) -> "PreparedImages":
    """Prepares a configuration; every part of it is made when it is first asked for.

    Args:
      config: the run.
      mesh: the devices, which need not exist; None makes the mesh that `config` asks for.

    Raises:
      InputError: when there is no such mesh.
    """
    return PreparedImages(config, partitioning.make_mesh(config.mesh) if mesh is None else mesh)


class PreparedImages:
    """A configuration on devices: the network, its parameters, the images and the evaluation.

    Attributes:
      config: the run.
      mesh: the devices, a `Mesh`, or an `AbstractMesh` where shapes are all that is asked for.
    """

    def __init__(self, config: ImageRunConfig, mesh: Any):
        self.config, self.mesh = config, mesh

    def _load(self, split: str) -> Images:
        config = self.config
        images = config.data.load(split, config.resize, config.model.channels)
        where = f"{config.data.name} ({split})"
        check_images(images, where, config.model.image_size, config.model.channels)
        if config.resize is None and config.augmentation != "crop":
            _check_exact(images, where, config.model.image_size)
        return images

    @functools.cached_property
    def all_train_images(self) -> Images:
        """The training split, before any draw."""
        return self._load(self.config.train_split)

    def held_out(self, split: str) -> Images:
        """A split to evaluate on."""
        images, train = self._load(split), self.all_train_images
        if images.classes != train.classes:
            raise InputError(
                f"{self.config.data.name}: the classes of {split} are "
                f"{', '.join(images.classes[:5])}, …, those of {self.config.train_split} "
                f"{', '.join(train.classes[:5])}, …. Change --gin.DATA."
            )
        return images

    @functools.cached_property
    def data(self) -> TrainImages:
        """The drawn training images in this configuration's own order."""
        config = self.config
        return TrainImages(
            config.draw(self.all_train_images),
            config.model.image_size,
            config.augmentation,
            config.batch_size,
            config.random_seed,
        )

    @functools.cached_property
    def model(self) -> VisionTransformer:
        """The network with what is trained, and a head for the data's classes."""
        classes = len(self.all_train_images.classes)
        # Its GELU and epsilon are those that its weights were trained with.
        numerics = {} if self._opened is None else self._opened.numerics
        return model_of(
            self.config, dataclasses.replace(self.config.model, num_classes=classes, **numerics)
        )

    @functools.cached_property
    def _opened(self) -> VitBackbone | None:
        path = self.config.initial_checkpoint_path
        return None if path is None else open_vit(path, self.config.model)

    @functools.cached_property
    def backbone(self) -> Params:
        """The frozen ViT's parameters, as tensors that are not read yet."""
        if self._opened is not None:
            return unflatten_dict(dict(self._opened.tensors), sep="/")
        logging.warning("INITIAL_CHECKPOINT_PATH is None: the ViT has random weights.")
        bare = VisionTransformer(dataclasses.replace(self.config.model, num_classes=0))
        return jax.tree.map(in_memory, _initialize(bare, self.config.random_seed))

    def initial(self) -> Params:
        """The first parameters of head, prompt and prefix, drawn with the run's seed.

        Raises:
          InputError: when an initializer cannot serve this prompt or prefix.
        """
        try:
            return _initialize(self.model, self.config.random_seed, _OWN)
        except (ValueError, OSError) as e:
            raise InputError(
                f"Prompt or prefix cannot be initialized: {e} Use another gin file of prompts/ or "
                "prefixes/."
            ) from e

    def shardings(self, mesh: Mesh) -> Params:
        """Where each of the model's parameters lives on a mesh."""
        return partitioning.parameter_shardings(abstract_variables(self.model), mesh)

    @functools.cached_property
    def placed(self) -> Params:
        """All parameters, those that are trained at their start, on their devices."""
        params = {**self.backbone, **self.initial()}
        return place(params, self.shardings(self.mesh), self.config.frozen_dtype)

    def trained(self, trained: Params) -> Params:
        """`placed` with parameters that a run has trained."""
        shardings = flatten_dict(self.shardings(self.mesh))
        placed = {
            name: jax.device_put(value, shardings[name])
            for name, value in flatten_dict(trained).items()
        }
        return merge_params(unflatten_dict(placed), self.placed)

    def logits(self, params: Params, pixels: Any) -> jax.Array:
        """The network's answers to images as they are stored."""
        config = self.config
        images = normalize(pixels, config.image_mean, config.image_std)
        found: Any = self.model.apply({"params": params}, images)
        return found

    @functools.cached_property
    def classifier(self) -> Classifier:
        """Evaluates parameters on the configuration's split."""
        return self.classifier_on(self.config.eval_split)

    def classifier_on(self, split: str) -> Classifier:
        """Evaluates parameters on a split."""
        config = self.config
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, self.mesh)
        size, rows = config.model.image_size, config.decode_batch_size
        return Classifier(self.logits, self.held_out(split), self.mesh, size, rows)

    def problem(self) -> Problem:
        """The configuration as the trainer sees it; what can be wrong with it is found here.

        Raises:
          InputError: for input that cannot be used; nothing large has been read then.
        """
        config = self.config
        partitioning.check_batch("BATCH_SIZE", config.batch_size, self.mesh, config.microbatches)
        data, backbone = self.data, self.backbone
        identity = self._identity() | {FINGERPRINT: fingerprint(backbone)}
        run_folder.check_identity(config, identity)
        evaluate = None
        if config.eval_period != 0:
            evaluate = functools.partial(self._evaluate, self.classifier)
        return Problem(
            name=config.task,
            params={**backbone, **self.initial()},
            trainable=config.trainable_pattern,
            loss_fn=make_loss_fn(self.model, config),
            data=data,
            identity=identity,
            description=data.describe(),
            shardings=self.shardings,
            evaluate=evaluate,
            export=self._export if config.prompt or config.prefix else None,
            files={run_files.IMAGES: self._drawn()},
        )

    def _drawn(self) -> dict[str, Any]:
        """What a run keeps of its images: the classes' names, and the draw where there is one."""
        images, draw = self.data.images, self.config.draw
        drawn = {"drawn": list(images.ids)} if draw.name else {}
        return {"classes": list(images.classes), "left_out": list(images.dropped)} | drawn

    def _evaluate(self, classifier: Classifier, params: Params) -> Evaluation:
        result = classifier(params, self.config.task)
        return Evaluation(result.metrics["accuracy"], [result])

    def _export(self, params: Params) -> Callable[[pathlib.Path], None]:
        """See `Problem.export`."""
        own = jax.device_get({name: params[name] for name in _OWN if name in params})
        prompt = None if self.model.prompt is None else fold(self.model.prompt, own["prompt"])
        prefix = None
        if self.config.prefix is not None:
            arrays = jax.jit(functools.partial(fold_prefix, self.model))(params)
            prefix = FoldedPrefix(jax.device_get(arrays))

        def write(folder: pathlib.Path) -> None:
            last = run_files.PROMPT if prefix is None else run_files.PREFIX
            with atomic_folder(folder, last=last, replace=True) as whole:
                save_vision(whole, prompt, prefix, own)

        return write

    def _identity(self) -> dict[str, Any]:
        """What must not change when the run is continued, but for the backbone's fingerprint."""
        config = self.config
        model = dataclasses.asdict(config.model) | {"dtype": config.model.dtype.name}
        # Memory against time, and nothing else; and what the data decides.
        del model["remat_policy"], model["num_classes"]
        if self._opened is not None:
            model |= self._opened.numerics
        prefix = {} if config.prefix is None else {"prefix": describe_method(config.prefix)}
        data = self.data.images
        return run_folder.flat(
            {
                "problem": "images",
                "model": model,
                "prompt": describe_method(config.prompt),
                **prefix,
                "placement": config.prompt_placement,
                "shared_a": config.shared_a,
                "task": {
                    "data": config.data.name,
                    "train_split": config.train_split,
                    "draw": config.draw.name,
                    "images": data.checksum(),
                    "classes": len(data.classes),
                    "resize": config.resize,
                    "augmentation": config.augmentation,
                    "image_mean": _plain(config.image_mean),
                    "image_std": _plain(config.image_std),
                },
                "trainable": config.trainable_pattern,
            }
        )


def model_of(config: ImageRunConfig, model: ViTConfig) -> VisionTransformer:
    """The network of a run, its ViT being `model`."""
    prompt: Any = config.prompt
    if prompt is not None and config.prompt_placement != "shallow":
        prompt = LayerPrompts(prompt, config.model.num_layers, config.shared_a)
    return VisionTransformer(
        model,
        prompt,
        config.prompt_placement == "hidden",
        config.prefix,
        config.prompt_dropout,
    )


def make_loss_fn(model: VisionTransformer, config: ImageRunConfig) -> LossFn:
    """Cross-entropy summed over a batch's images, and their number."""
    dropout = config.prompt_dropout > 0

    def loss_fn(trainable, frozen, batch, dropout_key):
        images = normalize(batch["images"], config.image_mean, config.image_std)
        logits: Any = model.apply(
            {"params": merge_params(trainable, frozen)},
            images,
            dropout,
            rngs={"dropout": dropout_key} if dropout else None,
        )
        log_probabilities = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_probabilities, batch["labels"][:, None], axis=-1)[:, 0]
        return -jnp.sum(own * batch["weights"]), jnp.sum(batch["weights"])

    return loss_fn


def fold(prompt: Any, params: Params) -> np.ndarray:
    """The plain prompt `[P, D]`, or one for each layer `[layers, P, D]`, float32."""
    return np.asarray(prompt.clone(parent=None).apply({"params": params}), np.float32)


def _initialize(model: VisionTransformer, seed: int, names: tuple[str, ...] = ()) -> Params:
    """The first parameters, or those of `names` alone, drawn with the seed."""
    config = model.config
    blank = jnp.zeros((1, config.image_size, config.image_size, config.channels))

    def init(key: jax.Array) -> Params:
        params = dict(model.init(key, blank)["params"])
        # What is not returned is not computed either.
        return {k: v for k, v in params.items() if not names or k in names}

    return jax.jit(init)(jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"image")))


def _check_exact(images: Images, where: str, size: int) -> None:
    found = images.pixels.shape[1:3]
    if found != (size, size):
        raise InputError(
            f"{where}: the images are {found[0]} x {found[1]} pixels, but the ViT takes {size} x "
            f"{size} (ViTConfig.image_size). Set --gin.RESIZE to resize them, "
            "--gin.AUGMENTATION=\"'crop'\" to cut them, or another model gin file."
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
