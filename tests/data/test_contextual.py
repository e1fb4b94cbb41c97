"""FULL-TILED, PARTIAL-TILED and EMBEDDED: what is made, and the masks of what is relevant."""

import numpy as np
import pytest

from dpt_jax.data.contextual import Embedded, FullTiled, PartialTiled, Photographs
from dpt_jax.data.contextual.tiling import patch_shares
from dpt_jax.data.images import Digits, Draw, Images
from dpt_jax.errors import InputError


def tiles_of(image, grid, size):
    return [
        image[i * size : (i + 1) * size, j * size : (j + 1) * size]
        for i in range(grid)
        for j in range(grid)
    ]


def test_full_tiled_has_the_digit_in_every_tile():
    plain, made = (source.load("validation", None, 1) for source in (Digits(), FullTiled(Digits())))
    assert made.pixels.shape == (100, 24, 24, 1) and made.relevant.all()
    for tile in tiles_of(made.pixels[7], 3, 8):
        np.testing.assert_array_equal(tile, plain.pixels[7])
    assert made.ids == plain.ids and (made.labels == plain.labels).all()


@pytest.mark.parametrize("fill", ["gauss", "other", "zeros"])
def test_partial_tiled_keeps_the_digit_where_the_mask_says(fill):
    plain = Digits().load("validation", None, 1)
    made = PartialTiled(Digits(), fill=fill).load("validation", None, 1)
    counts = set()
    for image, mask, own, label in zip(
        made.pixels, made.relevant, plain.pixels, plain.labels, strict=True
    ):
        relevant = [tile.all() for tile in tiles_of(mask, 3, 8)]
        assert [tile.any() for tile in tiles_of(mask, 3, 8)] == relevant
        for tile, is_relevant in zip(tiles_of(image, 3, 8), relevant, strict=True):
            assert np.array_equal(tile, own) == is_relevant
            if not is_relevant and fill == "zeros":
                assert not tile.any()
            if not is_relevant and fill == "other":
                same = [np.array_equal(tile, p) for p in plain.pixels]
                assert any(same) and plain.labels[same.index(True)] != label
        counts.add(9 - sum(relevant))
    # At least half, and at least one tile left.
    assert counts == {5, 6, 7, 8}


@pytest.mark.slow
def test_noise_has_the_images_own_mean_and_deviation():
    made = PartialTiled(Digits(), min_irrelevant=8).load("train", None, 1)
    noise = made.pixels[~made.relevant].astype(float)
    digits = made.pixels[made.relevant].astype(float)
    # Clipping at 0 and 255 takes some of the deviation.
    assert abs(noise.mean() - digits.mean()) < 12
    assert 0.7 * digits.std() < noise.std() < digits.std()


def test_embedded_is_a_digit_on_a_crop_of_a_photograph():
    plain = Digits().load("test", None, 1)
    made = Embedded(Digits(), step=4).load("test", None, 1)
    corners = set()
    for image, mask, own in zip(made.pixels[:60], made.relevant, plain.pixels, strict=False):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert len(rows) == len(columns) == 8 and mask.sum() == 64
        np.testing.assert_array_equal(image[np.ix_(rows, columns)], own)
        corners.add((rows[0], columns[0]))
    assert len(corners) > 15 and all(i % 4 == j % 4 == 0 for i, j in corners)
    assert len({image.tobytes() for image in made.pixels}) == 400


def test_backgrounds_of_training_and_test_share_no_pixel():
    from sklearn.datasets import load_sample_images

    for whole, left, right in zip(
        load_sample_images().images,
        Photographs().load("train", 3),
        Photographs().load("test", 3),
        strict=True,
    ):
        np.testing.assert_array_equal(np.concatenate([left, right], axis=1), whole)
    from PIL import Image

    grey = np.asarray(Image.fromarray(load_sample_images().images[0]).convert("L"))
    found = Photographs().load("train", 1)[0][..., 0].astype(int)
    assert np.abs(found - grey[:, : found.shape[1]]).max() <= 1


@pytest.mark.slow
def test_no_digit_is_in_two_splits_and_a_draw_gives_the_same_samples():
    source = PartialTiled(Digits())
    train, test = (source.load(split, None, 1) for split in ("train", "test"))
    assert not set(train.ids) & set(test.ids)
    few = Draw(shots=2)(train)
    place = train.ids.index(few.ids[3])
    np.testing.assert_array_equal(few.pixels[3], train.pixels[place])
    other = PartialTiled(Digits(), seed=1).load("train", None, 1)
    assert not np.array_equal(other.pixels, train.pixels)
    np.testing.assert_array_equal(source.load("train", None, 1).pixels, train.pixels)


def test_the_relevant_share_of_each_patch():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 4:8] = True
    found = patch_shares(mask, 4)
    np.testing.assert_allclose(found, [[0, 0.5, 0, 0.5]])
    with pytest.raises(InputError, match="8 x 8 pixels, which patches of 3 do not tile"):
        patch_shares(mask, 3)


class OneClass:
    name = "one"

    def load(self, split, size, channels):
        del split, size, channels
        labels = np.zeros(3, int)
        return Images(np.zeros((3, 4, 6, 1), np.uint8), labels, ("a",), ("0", "1", "2"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PartialTiled(Digits(), fill="noise"), "PartialTiled.fill is 'noise'"),
        (lambda: PartialTiled(Digits(), min_irrelevant=9), "min_irrelevant is 9.*from 0 to 8"),
        (lambda: FullTiled(Digits(), 0), "FullTiled.grid is 0"),
        (lambda: Embedded(Digits(), step=0), "Embedded.step is 0"),
        (lambda: PartialTiled(OneClass(), fill="other").load("train", None, 1), "of one class"),
        (lambda: Embedded(OneClass()).load("train", None, 1), "4 x 6 pixels, which are no squares"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()
