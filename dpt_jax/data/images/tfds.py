"""Image classification sets of TensorFlow Datasets, those of FGVC and VTAB-1K by their own names.

VTAB-1K trains on 800 rows and chooses by 200, then trains on all 1,000 (Zhai et al., 2019). Which
rows these are, which ones test, and the labels that are computed are those of the authors'
task_adaptation. FGVC's NABirds is not in TensorFlow Datasets: give it as a folder of pictures.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dpt_jax.data.images.examples import Images, check_split
from dpt_jax.data.images.pictures import resized
from dpt_jax.errors import InputError, nearest_names


@dataclasses.dataclass(frozen=True)
class Known:
    """A set with a name of a benchmark.

    Attributes:
      name: TensorFlow Datasets' name of it.
      label: gives the label of a row, where that is no plain feature.
      classes: how many classes `label` gives.
      feature: the feature that is the label, otherwise.
      splits: our names of splits, and TensorFlow Datasets' expressions, in which `{start}` and
        `{end}` are the ends of 200 rows.
      percent: of `train`, how much lies before these 200.
      white: the value of a white pixel.
    """

    name: str
    splits: Mapping[str, str]
    feature: str = "label"
    label: Callable[[Mapping[str, Any]], int] | None = None
    classes: int | None = None
    percent: int = 0
    white: int = 255

    def expression(self, split: str, rows_of: Callable[[str], int]) -> str:
        """TensorFlow Datasets' expression for a split, given the number of rows of one of its."""
        found = self.splits[split]
        if "{start}" in found:
            start = rows_of("train") * self.percent // 100
            found = found.format(start=start, end=start + 200)
        return found


def _bin_of(feature: str, values: int, bins: int) -> Callable[[Mapping[str, Any]], int]:
    return lambda row: int(row[feature]) * bins // values


def _clevr_count(row: Mapping[str, Any]) -> int:
    return len(row["objects"]["size"]) - 3


def _clevr_distance(row: Mapping[str, Any]) -> int:
    nearest = np.min(row["objects"]["pixel_coords"][:, 2])
    return int(np.searchsorted([8.0, 8.5, 9.0, 9.5, 10.0], nearest))


def _kitti_distance(row: Mapping[str, Any]) -> int:
    objects = row["objects"]
    # Car, van, truck.
    distances = objects["location"][np.asarray(objects["type"]) < 3][:, 2]
    if not len(distances):
        return 3
    return int(np.searchsorted([8.0, 20.0], np.min(distances)))


def _vtab(validation: str, test: str) -> dict[str, str]:
    """The splits of a set of VTAB; `validation` is an expression like those it returns."""
    return {
        "train": "train[:800]",
        "validation": validation,
        "trainval": f"train[:800]+{validation}",
        "test": test,
    }


_OWN = "validation[:200]"


def _one(name: str, validation: str | int, test: str = "test", **about: Any) -> Known:
    """A set of VTAB; `validation` is an expression, or behind how many percent of `train` it is."""
    if isinstance(validation, int):
        splits = _vtab("train[{start}:{end}]", test)
        return Known(name, splits, percent=validation, **about)
    return Known(name, _vtab(validation, test), **about)


def _dsprites(feature: str, values: int) -> Known:
    label = _bin_of(feature, values, 16)
    return _one("dsprites", 80, "train[90%:]", label=label, classes=16, white=1)


VTAB = {
    "caltech101": _one("caltech101", 90),
    "cifar100": _one("cifar100", 90),
    "dtd": _one("dtd", _OWN),
    "flowers102": _one("oxford_flowers102", _OWN),
    "pets": _one("oxford_iiit_pet", 80),
    "svhn": _one("svhn_cropped", 90),
    "sun397": _one("sun397/tfds", _OWN),
    "patch_camelyon": _one("patch_camelyon", _OWN),
    "eurosat": _one("eurosat/rgb", 60, "train[80%:]"),
    "resisc45": _one("resisc45", 60, "train[80%:]"),
    "diabetic_retinopathy": _one("diabetic_retinopathy_detection/btgraham-300", _OWN),
    "clevr_count": _one("clevr", 90, "validation", label=_clevr_count, classes=8),
    "clevr_distance": _one("clevr", 90, "validation", label=_clevr_distance, classes=6),
    "dmlab": _one("dmlab", _OWN),
    "kitti": _one("kitti", _OWN, label=_kitti_distance, classes=4),
    "dsprites_location": _dsprites("label_x_position", 32),
    "dsprites_orientation": _dsprites("label_orientation", 40),
    "smallnorb_azimuth": _one("smallnorb", "test[:200]", "test[50%:]", feature="label_azimuth"),
    "smallnorb_elevation": _one("smallnorb", "test[:200]", "test[50%:]", feature="label_elevation"),
}
_TENTH = {"train": "train[:90%]", "validation": "train[90%:]", "trainval": "train", "test": "test"}
FGVC = {
    "cub": Known("caltech_birds2011", _TENTH),
    "flowers": Known(
        "oxford_flowers102",
        {
            "train": "train",
            "validation": "validation",
            "trainval": "train+validation",
            "test": "test",
        },
    ),
    "dogs": Known("stanford_dogs", _TENTH),
    "cars": Known("cars196", _TENTH),
}
_BENCHMARKS = {f"vtab_{name}": known for name, known in VTAB.items()} | {
    f"fgvc_{name}": known for name, known in FGVC.items()
}


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A set of TensorFlow Datasets.

    Attributes:
      dataset: TensorFlow Datasets' name, such as "cifar10", or a benchmark's: "vtab_dtd" and
        "fgvc_cub". Of a plain name without a validation split, `validation` is the last tenth of
        the training rows, `train` the others, and `trainval` both.
      data_dir: where prepared sets are; None is TensorFlow Datasets' own folder.
      download: let TensorFlow Datasets fetch and prepare a set that is not there.
    """

    dataset: str
    data_dir: str | None = None
    download: bool = False

    def __post_init__(self):
        if self.dataset == "fgvc_nabirds":
            raise InputError(
                "fgvc_nabirds is not in TensorFlow Datasets. Give its pictures as a folder: "
                "--gin.DATA=@images.Folder()."
            )
        if self.dataset.startswith(("vtab_", "fgvc_")) and self.dataset not in _BENCHMARKS:
            raise InputError(
                f"There is no {self.dataset!r}.{nearest_names(self.dataset, _BENCHMARKS)} Set "
                "--gin.Tfds.dataset."
            )

    @property
    def name(self) -> str:
        """A short name, which names files."""
        return self.dataset.replace("/", "_").replace(":", "_")

    def load(self, split: str, size: int | None, channels: int) -> Images:
        """Reads a split; see `Source.load`."""
        import tensorflow_datasets as tfds

        builder = self._builder(tfds)
        known = _BENCHMARKS.get(self.dataset) or Known(builder.name, _plain_splits(builder))
        check_split(self.dataset, split, tuple(known.splits))
        feature = None if known.label else builder.info.features.get(known.feature)
        if known.label is None and not hasattr(feature, "num_classes"):
            raise InputError(
                f"{self.dataset} has no class label {known.feature!r}; its features are "
                f"{', '.join(builder.info.features)}. Set --gin.Tfds.dataset to a set of images "
                "with one label each."
            )
        pixels, labels, ids = [], [], []
        chosen = known.expression(split, lambda name: builder.info.splits[name].num_examples)
        rows = builder.as_dataset(split=chosen, decoders=None)
        for i, row in enumerate(tfds.as_numpy(rows)):
            image = row["image"] * np.uint8(255 // known.white)
            if image.shape[-1] == 1 and channels == 3:
                image = np.repeat(image, 3, axis=-1)
            pixels.append(image if size is None else resized(image, size))
            labels.append(known.label(row) if known.label else int(row[known.feature]))
            ids.append(f"{self.dataset}/{chosen}/{i}")
        shapes = {image.shape for image in pixels}
        if len(shapes) > 1:
            raise InputError(
                f"{self.dataset} has images of {len(shapes)} sizes, such as {min(shapes)} and "
                f"{max(shapes)}. Set --gin.RESIZE to one size for all."
            )
        if known.label:
            classes = tuple(map(str, range(known.classes or 0)))
        else:
            assert feature is not None
            classes = tuple(getattr(feature, "names", None) or map(str, range(feature.num_classes)))
        stacked = np.stack(pixels) if pixels else np.zeros((0, size or 0, size or 0, channels))
        return Images(
            stacked.astype(np.uint8),
            np.asarray(labels, np.int32),
            classes,
            tuple(ids),
        )

    def _builder(self, tfds: Any) -> Any:
        name = _BENCHMARKS[self.dataset].name if self.dataset in _BENCHMARKS else self.dataset
        try:
            builder = tfds.builder(name, data_dir=self.data_dir)
        except tfds.core.registered.DatasetNotFoundError as e:
            raise InputError(
                f"TensorFlow Datasets knows no {name!r}. Set --gin.Tfds.dataset, or give pictures "
                "as a folder with --gin.DATA=@images.Folder()."
            ) from e
        folder = builder.data_path
        if not builder.is_prepared():
            if not self.download:
                raise InputError(
                    f"The data set {name} is not in {folder}. Prepare it there on a machine with a "
                    f"network (tfds build {name}, or --gin.Tfds.download=True), or say where it is "
                    "with --gin.Tfds.data_dir."
                )
            try:
                builder.download_and_prepare()
            # The network's errors, those of sets that a person has to fetch, and full disks.
            except Exception as e:
                said = str(e).strip().partition("\n")[0]
                raise InputError(
                    f"The data set {name} cannot be prepared in {folder}: {type(e).__name__}: "
                    f"{said}. Prepare it there yourself (tfds build {name}), or say where it is "
                    "with --gin.Tfds.data_dir."
                ) from e
        return builder


def _plain_splits(builder: Any) -> dict[str, str]:
    own = {name: name for name in builder.info.splits}
    if "validation" not in own and "train" in own:
        own |= {"train": "train[:90%]", "validation": "train[90%:]", "trainval": "train"}
    return own
