"""A frozen vision transformer and labelled images, prepared once for training and evaluation."""

import dataclasses
import functools
import logging
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
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
from dpt_jax.models.vit import VisionTransformer, abstract_variables
from dpt_jax.models.vit.pixels import normalize
from dpt_jax.problems.described import describe_method
from dpt_jax.problems.folded import fold, folded_vit, plain_prompt
from dpt_jax.problems.image_config import ImageRunConfig
from dpt_jax.problems.image_network import drawing, make_loss_fn, model_of
from dpt_jax.tensors import Params, fingerprint, in_memory
from dpt_jax.training import run_folder, trainer
from dpt_jax.training.problem import Evaluation, Folding, Problem, TaskResult
from dpt_jax.training.state import merge_params

FINGERPRINT = "backbone_fingerprint"
# Parameters that the frozen ViT does not have.
_OWN = ("head", "prompt_head", "prompt", "prefix")


def train(config: ImageRunConfig, gin_config: Callable[[], str] = str) -> dict[str, Any]:
    """Prepares a run and trains it; arguments, result and errors are those of `trainer.train`."""
    with agreement.raise_everywhere():
        problem = prepare(config).problem()
    return trainer.train(config, problem, gin_config)


def prepare(
    config: ImageRunConfig,
    mesh: Mesh | AbstractMesh | None = None,
    like: "PreparedImages | None" = None,
) -> "PreparedImages":
    """Prepares a configuration; every part of it is made when it is first asked for.

    Args:
      config: the run.
      mesh: the devices, which need not exist; None makes the mesh that `config` asks for.
      like: another one on the same mesh, with which to share what both have in common.

    Raises:
      InputError: when there is no such mesh.
    """
    if like is not None:
        return PreparedImages(config, like.mesh, like.made)
    return PreparedImages(config, partitioning.make_mesh(config.mesh) if mesh is None else mesh, {})


class PreparedImages:
    """A configuration on devices: the network, its parameters, the images and the evaluation.

    Attributes:
      config: the run.
      mesh: the devices, a `Mesh`, or an `AbstractMesh` where shapes are all that is asked for.
      made: what was made so far that another configuration may share.
    """

    def __init__(self, config: ImageRunConfig, mesh: Any, made: dict[str, Any]):
        self.config, self.mesh, self.made = config, mesh, made

    def _shared(self, name: str, of: Sequence[Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all configurations with the same `of`."""
        key = repr([name, *of])
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def _load(self, split: str) -> Images:
        config = self.config
        of = split, config.data, config.resize, config.model, config.augmentation
        return self._shared("images", of, lambda: self._read(split))

    def _read(self, split: str) -> Images:
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
        path, model = self.config.initial_checkpoint_path, self.config.model
        if path is None:
            return None
        return self._shared("backbone", (path, model), lambda: open_vit(path, model))

    @functools.cached_property
    def backbone(self) -> Params:
        """The frozen ViT's parameters, as tensors that are not read yet."""
        if self._opened is not None:
            return unflatten_dict(dict(self._opened.tensors), sep="/")
        logging.warning("INITIAL_CHECKPOINT_PATH is None: the ViT has random weights.")
        bare = VisionTransformer(dataclasses.replace(self.config.model, num_classes=0))
        return jax.tree.map(in_memory, self._initialize(bare))

    def _initialize(self, model: VisionTransformer, names: tuple[str, ...] = ()) -> Params:
        """The first parameters, or those of `names` alone, drawn with the run's seed."""
        draw = self._shared("initial", (model, names), lambda: drawing(model, names))
        key = jax.random.key(self.config.random_seed)
        return draw(jax.random.fold_in(key, zlib.crc32(b"image")))

    def initial(self) -> Params:
        """The first parameters of head, prompt and prefix, drawn with the run's seed.

        Raises:
          InputError: when an initializer cannot serve this prompt or prefix.
        """
        try:
            return self._initialize(self.model, _OWN)
        except (ValueError, OSError) as e:
            raise InputError(
                f"Prompt or prefix cannot be initialized: {e} Use another gin file of prompts/ or "
                "prefixes/."
            ) from e

    def shardings(self, mesh: Mesh) -> Params:
        """Where each of the model's parameters lives on a mesh."""
        variables = self._shared("shapes", (self.model,), lambda: abstract_variables(self.model))
        return partitioning.parameter_shardings(variables, mesh)

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
        """What `folded_model` answers to images as they are stored."""
        config = self.config
        images = normalize(pixels, config.image_mean, config.image_std)
        found: Any = self.folded_model.apply({"params": params}, images)
        return found

    @functools.cached_property
    def folded_model(self) -> VisionTransformer:
        """The network as it is evaluated: prompts and prefix are plain arrays."""
        return folded_vit(self.model)

    def folded(self, params: Params) -> Params:
        """Merged parameters as those of `folded_model`."""
        make = functools.partial(fold, self.model)
        own = {name: params[name] for name in _OWN if name in params}
        folding = self._shared("fold", (self.model,), lambda: jax.jit(make))
        return params | folding(own, params)

    @functools.cached_property
    def classifier(self) -> Classifier:
        """Evaluates parameters on the configuration's split."""
        return self.classifier_on(self.config.eval_split)

    def classifier_on(self, split: str) -> Classifier:
        """Evaluates parameters on a split."""
        config = self.config
        partitioning.check_batch("EVAL_BATCH_SIZE", config.decode_batch_size, self.mesh)
        size, rows, images = config.model.image_size, config.decode_batch_size, self.held_out(split)
        seen = split, config.data, config.resize, config.image_mean, config.image_std
        return self._shared(
            "classifier",
            (self.folded_model, rows, *seen),
            lambda: Classifier(self.logits, images, self.mesh, size, rows),
        )

    def evaluate(self, params: Params) -> TaskResult:
        """Evaluates merged parameters on the configuration's split."""
        return self.classifier(self.folded(params), self.config.task)

    def problem(self) -> Problem:
        """The configuration as the trainer sees it; what can be wrong with it is found here.

        Raises:
          InputError: for input that cannot be used; nothing large has been read then.
        """
        config = self.config
        partitioning.check_batch("BATCH_SIZE", config.batch_size, self.mesh, config.microbatches)
        data, backbone = self.data, self.backbone
        seed = config.initial_checkpoint_path or config.random_seed
        found = self._shared(FINGERPRINT, (seed, config.model), lambda: fingerprint(backbone))
        identity = self._identity() | {FINGERPRINT: found}
        run_folder.check_identity(config, identity)
        evaluate = None
        if config.eval_period != 0:
            _ = self.classifier
            evaluate = self._evaluate
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
            folding=Folding(
                functools.partial(fold, self.model),
                make_loss_fn(self.folded_model, config),
                data.blanks,
                config.prompt_dropout > 0,
            ),
        )

    def _drawn(self) -> dict[str, Any]:
        """What a run keeps of its images: the classes' names, and the draw where there is one."""
        images, draw = self.data.images, self.config.draw
        drawn = {"drawn": list(images.ids)} if draw.name else {}
        return {"classes": list(images.classes), "left_out": list(images.dropped)} | drawn

    def _evaluate(self, params: Params) -> Evaluation:
        result = self.evaluate(params)
        return Evaluation(result.metrics["accuracy"], [result])

    def _export(self, params: Params) -> Callable[[pathlib.Path], None]:
        """See `Problem.export`."""
        own = jax.device_get({name: params[name] for name in _OWN if name in params})
        prompt, prefix = None, None
        folded = jax.device_get(self.folded(params))
        if self.model.prompt is not None:
            prompt = plain_prompt(folded["prompt"])
        if self.config.prefix is not None:
            prefix = FoldedPrefix(folded["prefix"])

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
