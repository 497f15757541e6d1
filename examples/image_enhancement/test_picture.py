import numpy as np
import pytest

from examples.image_enhancement.images import Photo, decode, encode
from examples.image_enhancement.measures import measure
from examples.image_enhancement.picture import compare


def plain(height: int, width: int, value: float) -> Photo:
    return Photo(np.full((height, width, 3), value, np.float32))


@pytest.mark.parametrize("size", [(300, 400), (1600, 900), (40, 3), (1, 1)])
def test_both_photos_are_shown_side_by_side_in_one_size(size: tuple[int, int]) -> None:
    before, after = plain(*size, 0.25), plain(2 * size[0], 2 * size[1], 0.75)

    picture = compare(before, after, measure(before.pixels), measure(after.pixels))

    height, width = picture.pixels.shape[:2]
    middle = height // 3
    dark, light = (np.abs(picture.pixels[middle] - value).max(-1) < 0.01 for value in (0.25, 0.75))
    assert dark.sum() == light.sum() > 0
    assert dark.nonzero()[0].max() < width / 2 < light.nonzero()[0].min()
    assert max(height, width) < 2100


def test_a_transparent_photo_is_shown_on_grey() -> None:
    photo = Photo(np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.float32))

    picture = compare(photo, photo, measure(photo.pixels), measure(photo.pixels))

    assert np.allclose(picture.pixels[200, 200], 0.75, atol=0.01)


def test_the_measures_are_written_below() -> None:
    photo = plain(64, 64, 0.5)
    good, bad = measure(photo.pixels), measure(photo.pixels * 0.1)

    one, other = (compare(photo, photo, good, measures).pixels for measures in (good, bad))

    changed = (one != other).any(-1).nonzero()
    assert one.shape == other.shape
    assert changed[0].min() > 640
    assert changed[1].min() > one.shape[1] / 2


def test_a_picture_can_be_written() -> None:
    photo = plain(64, 64, 0.5)

    picture = compare(photo, photo, measure(photo.pixels), measure(photo.pixels))

    assert decode(encode(picture, ".jpg")).pixels.shape == picture.pixels.shape
