"""Labelled images: digits, folders, TensorFlow Datasets, draws, augmentation, and batches."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dpt_jax.data.images import Digits, Draw, Folder, Images, Tfds, tfds
from dpt_jax.data.images.augment import augment
from dpt_jax.data.images.batches import TrainImages, evaluation_batches
from dpt_jax.data.images.pictures import resized
from dpt_jax.errors import InputError


def some(count=12, size=6, classes=("a", "b", "c"), channels=1):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, channels), np.uint8)
    labels = np.arange(count) % len(classes)
    return Images(pixels, labels, classes, tuple(f"x/{i}" for i in range(count)))


def test_digits_are_scikit_learns_in_a_fixed_split_with_every_class_in_its_share():
    from sklearn.datasets import load_digits

    found = {split: Digits().load(split, None, 1) for split in ("train", "validation", "test")}
    assert {split: len(images) for split, images in found.items()} == {
        "train": 1297,
        "validation": 100,
        "test": 400,
    }
    ids = [set(images.ids) for images in found.values()]
    assert len(set.union(*ids)) == 1797
    shares = np.bincount(load_digits().target) / 1797
    for images in found.values():
        own = np.bincount(images.labels) / len(images)
        np.testing.assert_allclose(own, shares, atol=0.006)
        for i in (0, 50):
            original = load_digits().images[int(images.ids[i].split("/")[1])]
            np.testing.assert_allclose(images.pixels[i, ..., 0] / 255 * 16, original, atol=0.04)


def test_three_channels_are_equal_and_some_digits_can_be_taken():
    images = Digits((3, 7)).load("validation", 16, 3)
    assert images.pixels.shape[1:] == (16, 16, 3) and set(images.labels) == {3, 7}
    np.testing.assert_array_equal(images.pixels[..., 0], images.pixels[..., 2])
    with pytest.raises(InputError, match="the ViT takes 2"):
        Digits().load("train", None, 2)


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("validation", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                colour = (100 * label, 10 * i, 7)
                Image.new("RGB", (6, 6), colour).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_folder_has_a_folder_for_each_class(folder):
    images = Folder(str(folder)).load("train", None, 3)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.pixels[4, 0, 0].tolist() == [100, 10, 7]
    assert images.ids[4] == "dog/1.png"
    assert Folder(str(folder)).load("validation", 3, 3).pixels.shape == (4, 3, 3, 3)


def test_an_empty_class_is_named(folder):
    (folder / "train" / "eel").mkdir()
    with pytest.raises(InputError, match=r"train/eel has no pictures.*a class without examples"):
        Folder(str(folder)).load("train", None, 3)


def test_a_corrupt_picture_is_named_and_counted_and_dropped_only_when_asked(folder, caplog):
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    (folder / "train" / "cat" / "1.png").write_bytes(whole[:40])
    (folder / "train" / "dog" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2 of the pictures in .* the first .*cat/1\.png"):
        Folder(str(folder)).load("train", None, 3)
    images = Folder(str(folder), unreadable="drop").load("train", None, 3)
    assert len(images) == 4 and len(images.dropped) == 2
    assert "2 of the pictures" in caplog.text and "cat/1.png" in caplog.text
    with pytest.raises(InputError, match="Folder.unreadable is 'skip'"):
        Folder(str(folder), unreadable="skip")


def test_pictures_of_other_sizes_and_channels_are_refused(folder):
    Image.new("RGB", (7, 6)).save(folder / "train" / "dog" / "9.png")
    with pytest.raises(InputError, match=r"dog/9.png is 6 x 7 pixels, but 6 x 6 pixels is cat/0"):
        Folder(str(folder)).load("train", None, 3)
    assert len(Folder(str(folder)).load("train", 4, 3)) == 7
    Image.new("L", (6, 6), 9).save(folder / "train" / "dog" / "9.png")
    with pytest.raises(InputError, match=r"dog/9.png has the channels L, but the ViT takes 3"):
        Folder(str(folder)).load("train", None, 3)
    images = Folder(str(folder), convert=True).load("train", None, 3)
    assert images.pixels[-1, 0, 0].tolist() == [9, 9, 9]


def test_a_split_or_class_that_is_not_there(folder):
    with pytest.raises(InputError, match="no split 'test'; it has train, validation"):
        Folder(str(folder)).load("test", None, 3)
    (folder / "validation" / "fox").mkdir()
    with pytest.raises(InputError, match="class 'fox', which train does not have"):
        Folder(str(folder)).load("validation", None, 3)
    with pytest.raises(InputError, match="There is no folder"):
        Folder(str(folder / "x")).load("train", None, 3)


def test_draws_are_nested_and_independent_of_the_order():
    images = some(60)
    few, more = (Draw(shots=k, seed=2)(images) for k in (2, 5))
    assert np.bincount(few.labels).tolist() == [2, 2, 2]
    assert set(few.ids) < set(more.ids)
    turned = Draw(shots=2, seed=2)(images.take(np.arange(60)[::-1]))
    assert set(turned.ids) == set(few.ids)
    assert set(Draw(shots=2, seed=3)(images).ids) != set(few.ids)
    # A share is rounded up: no class is left without an image.
    assert np.bincount(Draw(percent=1)(images).labels).tolist() == [1, 1, 1]
    assert len(Draw(percent=25)(images)) == 15
    assert Draw()(images) is images
    assert [d.name for d in (Draw(), Draw(shots=2), Draw(percent=5.0, seed=1))] == [
        *("", "_k2_s0", "_p5_s1")
    ]


def test_crops_and_flips_are_parts_of_the_image():
    pixels = some(40).pixels
    made = augment(pixels, 4, "crop", np.random.default_rng(0))
    windows = [
        (pixels[:, i : i + 4, j : j + 4], pixels[:, i : i + 4, j : j + 4][:, :, ::-1])
        for i in range(3)
        for j in range(3)
    ]
    found = [
        {
            (w, f)
            for w, pair in enumerate(windows)
            for f in (0, 1)
            if np.array_equal(made[i], pair[f][i])
        }
        for i in range(40)
    ]
    assert all(found)
    assert len({w for one in found for w, _ in one}) > 5
    assert {f for one in found for _, f in one} == {0, 1}
    np.testing.assert_array_equal(augment(pixels, 4, "none", None), pixels[:, 1:5, 1:5])
    padded = augment(pixels, 6, "pad", np.random.default_rng(0))
    assert padded.shape == pixels.shape and (padded == 0).mean() > 0.1


def test_batches_are_a_function_of_seed_and_step_and_of_the_rows_alone():
    data = TrainImages(some(10), 4, "crop", 4, 3)
    assert data.steps_per_epoch == 3
    whole = data.batch(4)
    again = TrainImages(some(10), 4, "crop", 4, 3)
    again.batch(0)
    for name, array in again.batch(4, np.array([1, 3])).items():
        np.testing.assert_array_equal(array, whole[name][[1, 3]])
    # Each epoch has every image once; its last batch is padded.
    epoch = [data.batch(step) for step in range(3)]
    assert [b["weights"].sum() for b in epoch] == [4, 4, 2]
    plain = TrainImages(some(10), 6, "none", 4, 3)
    rows = [b["images"][b["weights"] > 0] for b in (plain.batch(s) for s in range(3))]
    seen = np.concatenate(rows).reshape(10, -1)
    assert {row.tobytes() for row in seen} == {row.tobytes() for row in some(10).pixels}


def test_evaluation_sees_every_image_once():
    found = list(evaluation_batches(some(10), 4, 4))
    assert np.concatenate([indices for indices, _ in found]).tolist() == list(range(10))
    assert all(batch["images"].shape == (4, 4, 4, 1) for _, batch in found)
    np.testing.assert_array_equal(found[2][1]["images"][1], some(10).pixels[9, 1:5, 1:5])


def test_resizing_is_pillows():
    picture = some(1, 8, channels=3).pixels[0]
    expected = Image.fromarray(picture).resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized(picture, 5), np.asarray(expected))


class FakeBuilder:
    """What `Tfds` asks a builder of TensorFlow Datasets for."""

    def __init__(self, prepared=True):
        self.name, self.data_path, self.prepared = "some_set", "/data/some_set", prepared
        label = type("Label", (), {"num_classes": 3, "names": ["a", "b", "c"]})()
        info = {"features": {"image": None, "label": label}, "splits": {"train": 1, "test": 1}}
        self.info = type("Info", (), info)()

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self):
        raise ConnectionError("no route to host\nat all")

    def as_dataset(self, split, decoders):
        del decoders
        self.split = split
        images = some(6, channels=3)
        return [
            {"image": image, "label": label}
            for image, label in zip(images.pixels, images.labels, strict=True)
        ]


def test_tfds_sets_are_read_by_name(monkeypatch):
    import tensorflow_datasets

    builder = FakeBuilder()
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda *args, **kwargs: builder)
    monkeypatch.setattr(tensorflow_datasets, "as_numpy", lambda rows: rows)
    images = Tfds("some_set").load("validation", None, 3)
    assert builder.split == "train[90%:]"
    assert images.classes == ("a", "b", "c") and images.labels.tolist() == [0, 1, 2, 0, 1, 2]
    Tfds("vtab_dtd").load("trainval", None, 3)
    assert builder.split == "train[:800]+validation[:200]"
    builder.prepared = False
    with pytest.raises(InputError, match=r"some_set is not in /data/some_set. Prepare it there"):
        Tfds("some_set").load("train", None, 3)
    with pytest.raises(InputError, match="ConnectionError: no route to host. Prepare it there"):
        Tfds("some_set", download=True).load("train", None, 3)


@pytest.mark.slow
def test_a_set_that_tfds_does_not_know_is_refused():
    with pytest.raises(InputError, match="TensorFlow Datasets knows no 'no_such_set'"):
        Tfds("no_such_set").load("train", None, 3)
    with pytest.raises(InputError, match="no 'vtab_dtt'. Nearest: vtab_dtd"):
        Tfds("vtab_dtt")
    with pytest.raises(InputError, match="Give its pictures as a folder"):
        Tfds("fgvc_nabirds")


def test_vtabs_nineteen_and_the_labels_that_are_computed():
    assert len(tfds.VTAB) == 19
    by = {name: known.label for name, known in tfds.VTAB.items() if known.label}
    clevr = {"objects": {"size": [0] * 5, "pixel_coords": np.array([[0, 0, 9.2], [0, 0, 8.2]])}}
    assert by["clevr_count"](clevr) == 2
    assert by["clevr_distance"](clevr) == 1
    kitti = {"objects": {"type": np.array([0, 5]), "location": np.array([[0, 0, 25.0], [0, 0, 1]])}}
    assert by["kitti"](kitti) == 2
    assert by["kitti"]({"objects": {k: v[1:] for k, v in kitti["objects"].items()}}) == 3
    # A distance at a threshold is of the nearer class.
    kitti["objects"]["location"][0, 2] = 8.0
    assert by["kitti"](kitti) == 0
    clevr["objects"]["pixel_coords"][:, 2] = 9.0
    assert by["clevr_distance"](clevr) == 2
    assert by["dsprites_location"]({"label_x_position": 31}) == 15
    # Of 40 values, two and a half make a class.
    found = [by["dsprites_orientation"]({"label_orientation": i}) for i in range(40)]
    assert found == np.floor(np.arange(40) / 2.5).tolist()


@pytest.mark.parametrize(
    ("name", "train", "trainval", "test"),
    [
        ("cifar100", 50_000, "train[:800]+train[45000:45200]", "test"),
        ("pets", 3_680, "train[:800]+train[2944:3144]", "test"),
        ("eurosat", 27_000, "train[:800]+train[16200:16400]", "train[80%:]"),
        ("dsprites_location", 737_280, "train[:800]+train[589824:590024]", "train[90%:]"),
        ("smallnorb_azimuth", 24_300, "train[:800]+test[:200]", "test[50%:]"),
        ("dmlab", 65_550, "train[:800]+validation[:200]", "test"),
    ],
)
def test_vtabs_rows(name, train, trainval, test):
    known = tfds.VTAB[name]
    assert known.expression("trainval", {"train": train}.__getitem__) == trainval
    assert known.expression("test", {"train": train}.__getitem__) == test
    assert f"train[:800]+{known.expression('validation', lambda _: train)}" == trainval


def test_dsprites_pixels_of_0_and_1_become_black_and_white(monkeypatch):
    import tensorflow_datasets

    builder = FakeBuilder()
    rows = [{"image": np.eye(4, dtype=np.uint8)[..., None], "label_orientation": 39}]
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda *args, **kwargs: builder)
    monkeypatch.setattr(builder, "as_dataset", lambda split, decoders: rows)
    monkeypatch.setattr(tensorflow_datasets, "as_numpy", lambda rows: rows)
    images = Tfds("vtab_dsprites_orientation").load("test", None, 3)
    np.testing.assert_array_equal(images.pixels[0], 255 * np.eye(4)[..., None] * np.ones(3))
    assert images.labels.tolist() == [15] and len(images.classes) == 16


def test_a_mask_goes_with_its_image():
    images = dataclasses.replace(some(3), relevant=np.arange(3 * 36).reshape(3, 6, 6) % 2 == 0)
    np.testing.assert_array_equal(images.take([2]).relevant[0], images.relevant[2])
