import numpy as np
import pytest

from examples.image_enhancement.tiles import tiles


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (6, 5), (37, 80), (80, 37)])
@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_cover_a_photo_once(size: tuple[int, int], scale: int) -> None:
    height, width = size
    photo = np.arange(height * width).reshape(size)
    result = np.full((scale * height, scale * width), -1)
    seen = np.zeros_like(result)

    for tile in tiles(height, width, side=6, overlap=4):
        answer = photo[tile.source].repeat(scale, 0).repeat(scale, 1)
        result[tile.target(scale)] = answer[tile.inner(scale)]
        seen[tile.target(scale)] += 1

    assert (seen == 1).all()
    assert (result == photo.repeat(scale, 0).repeat(scale, 1)).all()


def test_tiles_see_their_neighbours_and_no_farther() -> None:
    (*_, last) = tiles(20, 20, side=6, overlap=4)

    assert last.kept == (18, 18, 20, 20)
    assert last.given == (14, 14, 20, 20)


def test_no_tile_is_larger_than_its_side_and_overlap() -> None:
    for tile in tiles(100, 90, side=32, overlap=8):
        top, left, bottom, right = tile.given
        assert bottom - top <= 48
        assert right - left <= 48
        assert top % 2 == left % 2 == 0
