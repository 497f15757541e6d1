"""Cut a large photo into tiles, so that memory is bounded whatever its size."""

from collections.abc import Iterator

from msgspec import Struct

__all__ = ["Tile", "tiles"]


class Tile(Struct, frozen=True):
    """A part of a photo: what a network is given, and inside that what is kept of its answer.

    `given` and `kept` are (top, left, bottom, right) in pixels of the photo.
    """

    given: tuple[int, int, int, int]
    kept: tuple[int, int, int, int]

    @property
    def source(self) -> tuple[slice, slice]:
        """Where to cut the tile from the photo."""
        top, left, bottom, right = self.given
        return slice(top, bottom), slice(left, right)

    def inner(self, scale: int = 1) -> tuple[slice, slice]:
        """Where to cut what is kept from the answer, which is `scale` times the tile's size."""
        return self._slices(scale, self.given[0], self.given[1])

    def target(self, scale: int = 1) -> tuple[slice, slice]:
        """Where to put that in the result, which is `scale` times the photo's size."""
        return self._slices(scale, 0, 0)

    def _slices(self, scale: int, y: int, x: int) -> tuple[slice, slice]:
        top, left, bottom, right = self.kept
        return (
            slice(scale * (top - y), scale * (bottom - y)),
            slice(scale * (left - x), scale * (right - x)),
        )


def tiles(height: int, width: int, *, side: int, overlap: int) -> Iterator[Tile]:
    """Cover a photo with tiles that keep at most `side` pixels a side, none of them twice.

    Each is given `overlap` pixels more around: if the network sees no farther, no seam shows.
    Tiles begin at even places if `side` and `overlap` are even.
    """
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(top + side, height), min(left + side, width)
            given = (
                max(top - overlap, 0),
                max(left - overlap, 0),
                min(bottom + overlap, height),
                min(right + overlap, width),
            )
            yield Tile(given, (top, left, bottom, right))
