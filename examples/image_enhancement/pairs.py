"""What the networks learn from: photos, and pairs of a worse and a good picture made of them.

None of these photos is among those that the networks are measured on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from examples.image_enhancement.degrade import compress, expose, halve, quantise, to_light
from examples.image_enhancement.images import Pixels, as_pixels, resize
from examples.image_enhancement.models import thumbnail

__all__ = ["PACKAGE", "Pair", "denoise_pair", "details", "relight_pair", "scenes", "upscale_pair"]

PACKAGE = "lomiri-wallpapers-16.04"
"""The Debian package with the photos in colour; those taken from it are CC BY 4.0 or CC0."""

_COLOURED = (
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "friends_by_Aitzol_Berasategi",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
)
# Photos without colour, which come with scikit-image under CC0.
_GREY = ("camera", "brick", "grass", "gravel")


class Pair(Struct, frozen=True, eq=False):
    """What a network is given, in the order of its inputs, and what it should make of that."""

    given: tuple[NDArray[np.float32], ...]
    wanted: Pixels


def scenes(folder: Path) -> list[Pixels]:
    """Read the photos whose light means something; `folder` is where `PACKAGE` was unpacked."""
    return [*_coloured(folder, 700), *_grey(_GREY[:1])]


def details(folder: Path) -> list[Pixels]:
    """Read all photos, in several sizes.

    One made smaller has less noise and blur of its own, and more in what a network sees at a time.
    """
    return [
        *(photo for side in (1600, 900, 500) for photo in _coloured(folder, side)),
        *_grey(_GREY),
    ]


def relight_pair(photos: Sequence[Pixels], random: Generator, side: int = 128) -> Pair:
    """Take away light: evenly, or more in some places than in others, or none."""
    good = _view(photos, random, side)
    match random.choice(["none", "even", "uneven", "curve"], p=[0.15, 0.5, 0.2, 0.15]):
        case "none":
            dark = good
        case "curve":
            dark = good ** np.float32(random.uniform(1.2, 3))
        case "even":
            dark = _underexpose(good, -random.uniform(0.5, 4.5), random)
        case _:
            stops = -random.uniform(0.5, 2.5) + random.uniform(0.3, 1.5) * _hills(random, side)
            dark = _underexpose(good, np.clip(stops, -5, 0), random)
    dark = quantise(dark)
    return Pair((dark, thumbnail(dark), np.array([0, 0, 1, 1], np.float32)), good)


def denoise_pair(photos: Sequence[Pixels], random: Generator, side: int = 80) -> Pair:
    """Add noise that is the same everywhere, or as a sensor has it: more where there is light."""
    good = _crop(photos, random, side)
    if random.random() < 0.25:
        good = expose(good, -random.uniform(0, 3), random)
    if random.random() < 0.6:
        strongest = 60 if random.random() < 0.8 else 15
        sigma = np.full_like(good, random.uniform(0, strongest) / 255)
    else:
        sigma = _sensor_noise(
            good, 10 ** random.uniform(-4, -1.7), 10 ** random.uniform(-3.2, -1.7)
        )
    noisy = quantise(good + sigma * random.standard_normal(good.shape, np.float32))
    if random.random() < 0.15:
        noisy = compress(noisy, int(random.integers(85, 98)))
    # The noise is estimated, so that it is not known any better.
    return Pair((noisy, sigma * np.float32(random.uniform(0.9, 1.12))), good)


def upscale_pair(photos: Sequence[Pixels], random: Generator, side: int = 96) -> Pair:
    """Halve; some are then compressed, as small pictures often were."""
    good = _crop(photos, random, side)
    small = quantise(halve(good))
    if random.random() < 0.25:
        small = compress(small, int(random.integers(80, 97)))
    return Pair((small,), good)


def _coloured(folder: Path, long_side: int) -> Iterator[Pixels]:
    for name in _COLOURED:
        image = Image.open(_find(folder, name)).convert("RGB")
        image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS, reducing_gap=None)
        yield as_pixels(image)


def _grey(names: Sequence[str]) -> Iterator[Pixels]:
    import skimage.data

    for name in names:
        yield as_pixels(Image.fromarray(getattr(skimage.data, name)()))


def _find(folder: Path, name: str) -> Path:
    found = next(folder.rglob(f"{name}.jpg"), None)
    if found is None:
        raise SystemExit(
            f"{name}.jpg is not in {folder}; get it with:\n"
            f"apt-get download {PACKAGE} && dpkg -x {PACKAGE}_*.deb {folder}"
        )
    return found


def _crop(photos: Sequence[Pixels], random: Generator, side: int) -> Pixels:
    """Cut a square from anywhere, turned any way."""
    weights = np.sqrt([photo.size for photo in photos])
    photo = photos[random.choice(len(photos), p=weights / weights.sum())]
    top, left = (random.integers(size - side + 1) for size in photo.shape[:2])
    square = photo[top : top + side, left : left + side]
    return _recoloured(np.rot90(_mirrored(square, random), int(random.integers(4))), random)


def _view(photos: Sequence[Pixels], random: Generator, side: int) -> Pixels:
    """Take most of a photo, upright, pressed into a square."""
    photo = photos[int(random.integers(len(photos)))]
    height, width = (int(size * random.uniform(0.45, 1)) for size in photo.shape[:2])
    top, left = (
        random.integers(whole - part + 1)
        for whole, part in zip(photo.shape, (height, width), strict=False)
    )
    part = photo[top : top + height, left : left + width]
    square = resize(part, side, side, Image.Resampling.BOX)
    return _recoloured(_mirrored(square, random), random)


def _mirrored(pixels: Pixels, random: Generator) -> Pixels:
    return pixels[:, ::-1] if random.random() < 0.5 else pixels


def _recoloured(pixels: Pixels, random: Generator) -> Pixels:
    """Exchange the channels now and then, for there are more colours than in a few photos."""
    return pixels[..., random.permutation(3)] if random.random() < 0.3 else pixels


def _underexpose(pixels: Pixels, stops: float | Pixels, random: Generator) -> Pixels:
    shot, read = random.uniform(0, 2e-4), random.uniform(0, 1e-3)
    return expose(pixels, stops, random, shot=shot, read=read)


def _hills(random: Generator, side: int) -> Pixels:
    """Make a smooth field between −1 and 1."""
    coarse = Image.fromarray(random.standard_normal((3, 3), np.float32))
    field: Pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))[..., None]
    return field / np.float32(np.abs(field).max())


def _sensor_noise(pixels: Pixels, shot: float, read: float) -> Pixels:
    """Give the deviation of the noise that `expose` adds, by the slope of sRGB's curve."""
    light = to_light(pixels)
    slope = np.where(
        light <= 0.0031308, 12.92, 1.055 / 2.4 * np.maximum(light, 1e-4) ** (1 / 2.4 - 1)
    )
    noise: Pixels = np.minimum(np.sqrt(shot * light + read**2) * slope, 0.35).astype(np.float32)
    return noise
