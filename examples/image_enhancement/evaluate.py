"""Measure the networks on photos they have not seen.

``python -m examples.image_enhancement.evaluate`` prints how they stand against classical filters.
Those are told what the networks have to find out: the true strength of the noise, and of several
settings the one that comes nearest to the good photos.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias, get_args

import anyio
import numpy as np
from msgspec import Struct
from PIL import Image
from skimage import data, exposure, restoration
from skimage.metrics import structural_similarity

from asyafw.model import Model
from examples.image_enhancement import models
from examples.image_enhancement.degrade import add_noise, expose, halve, quantise
from examples.image_enhancement.images import Photo, Pixels, as_pixels, resize
from examples.image_enhancement.models import Name, in_process

__all__ = ["Case", "Result", "cases", "held_out", "network", "rivals"]

Filter: TypeAlias = Callable[["Case"], Pixels]


class Case(Struct, frozen=True, eq=False):
    """A photo that was made worse, and as it was; `sigma` tells the noise that was added."""

    given: Pixels
    wanted: Pixels
    sigma: float = 0


class Result(Struct, frozen=True, order=True):
    """How near the results come to the good photos, on average: PSNR in dB, SSIM up to 1."""

    psnr: float
    ssim: float

    def __str__(self) -> str:
        return f"{self.psnr:.2f} dB, {self.ssim:.3f}"


def held_out(side: int | None = None) -> dict[str, Pixels]:
    """Give photos that come with scikit-image, or squares from their middle; none is trained on."""
    names = ("astronaut", "chelsea", "coffee", "rocket")
    return {
        name: _middle(as_pixels(Image.fromarray(getattr(data, name)())), side) for name in names
    }


def cases(name: Name, side: int | None = 256) -> dict[str, list[Case]]:
    """Make the photos worse, each way under its heading."""
    random = np.random.default_rng(7)
    match name:
        case "relight":
            # The whole photos, for the light of a part says little; but one was taken at dusk.
            good = [photo for name, photo in held_out().items() if name != "rocket"]
            return {
                f"{-stops:g} stops too dark": [
                    Case(quantise(expose(x, stops, random, shot=1e-4, read=5e-4)), x) for x in good
                ]
                for stops in (-1.5, -2.5, -3.5)
            }
        case "denoise":
            return {
                f"noise of {sigma}": [
                    Case(quantise(add_noise(x, sigma / 255, random)), x, sigma / 255)
                    for x in held_out(side).values()
                ]
                for sigma in (10, 25, 50)
            }
        case "upscale":
            return {"half the size": [Case(quantise(halve(x)), x) for x in held_out(side).values()]}


def rivals(name: Name) -> dict[str, list[Filter]]:
    """Give the classical filters, each with several settings."""
    match name:
        case "relight":
            return {
                "gamma": [_gamma(power) for power in (0.35, 0.4, 0.45, 0.5, 0.6)],
                "gamma to a mean": [_gamma_to(mean) for mean in (0.35, 0.4, 0.45, 0.5)],
                "stretch": [_stretch(percentile) for percentile in (97, 99, 99.9)],
                "histogram equalisation": [_by_value(exposure.equalize_hist)],
                "CLAHE": [_clahe(limit) for limit in (0.005, 0.01, 0.02, 0.05)],
            }
        case "denoise":
            return {
                "bilateral": [_bilateral(factor) for factor in (1.0, 2.0, 3.0)],
                "non-local means": [_non_local_means(factor) for factor in (0.6, 0.8, 1.0)],
            }
        case "upscale":
            return {
                "bicubic": [_interpolation(Image.Resampling.BICUBIC)],
                "Lanczos": [_interpolation(Image.Resampling.LANCZOS)],
            }


def best(filters: Sequence[Filter], given: Sequence[Case]) -> Result:
    """Measure the filter with the setting that suits these cases best."""
    return max(_mean(_result(apply(case), case) for case in given) for apply in filters)


async def network(name: Name, model: Model, given: Sequence[Case]) -> Result:
    """Measure a network."""
    enhance: Callable[[Model, Photo], Awaitable[Photo]] = getattr(models, name)
    results = [await enhance(model, Photo(case.given)) for case in given]
    return _mean(_result(quantise(r.pixels), case) for r, case in zip(results, given, strict=True))


def _result(result: Pixels, case: Case) -> Result:
    error = float(np.square(case.wanted - result, dtype=np.float64).mean())
    similarity = structural_similarity(  # type: ignore[no-untyped-call]  # as all of scikit-image
        case.wanted, result, data_range=1, channel_axis=-1
    )
    return Result(-10 * math.log10(error), float(similarity))


def _mean(results: Iterable[Result]) -> Result:
    listed = list(results)
    return Result(*(float(np.mean([getattr(r, k) for r in listed])) for k in ("psnr", "ssim")))


def _middle(pixels: Pixels, side: int | None) -> Pixels:
    if side is None:
        height, width = (size // 2 * 2 for size in pixels.shape[:2])
        return pixels[:height, :width]
    top, left = ((size - side) // 2 for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _gamma(power: float) -> Filter:
    return lambda case: case.given ** np.float32(power)


def _gamma_to(mean: float) -> Filter:
    def brighten(case: Case) -> Pixels:
        power = np.log(mean) / np.log(max(float(case.given.mean()), 0.001))
        return case.given ** np.float32(np.clip(power, 0.1, 1))

    return brighten


def _stretch(percentile: float) -> Filter:
    return lambda case: np.clip(case.given / np.percentile(case.given.max(-1), percentile), 0, 1)


def _clahe(limit: float) -> Filter:
    return _by_value(lambda value: exposure.equalize_adapthist(value, clip_limit=limit))


def _by_value(curve: Callable[[Pixels], Pixels]) -> Filter:
    """Change the brightest channel of each pixel, and the others with it, so that hues stay."""

    def brighten(case: Case) -> Pixels:
        value = case.given.max(-1)
        gain = curve(value) / np.maximum(value, 1 / 255)
        brightened: Pixels = np.clip(case.given * gain[..., None], 0, 1).astype(np.float32)
        return brightened

    return brighten


def _bilateral(factor: float) -> Filter:
    return lambda case: restoration.denoise_bilateral(
        case.given, sigma_color=factor * case.sigma, sigma_spatial=2, win_size=7, channel_axis=-1
    ).astype(np.float32)


def _non_local_means(factor: float) -> Filter:
    return lambda case: restoration.denoise_nl_means(
        case.given,
        h=factor * case.sigma,
        sigma=case.sigma,
        patch_size=5,
        patch_distance=6,
        channel_axis=-1,
    )


def _interpolation(filter_: Image.Resampling) -> Filter:
    return lambda case: resize(case.given, case.wanted.shape[1], case.wanted.shape[0], filter_)


async def _seconds_per_megapixel(name: Name, model: Model) -> float:
    photo = Photo(np.random.default_rng(1).random((1000, 1000, 3), np.float32))
    enhance: Callable[[Model, Photo], Awaitable[Photo]] = getattr(models, name)
    began = time.perf_counter()
    await enhance(model, photo)
    return time.perf_counter() - began


async def _table(name: Name, model: Model) -> list[list[str]]:
    """Measure all filters on all cases; a row for each filter."""
    headings = cases(name)
    columns = [
        {
            **{kind: best(filters, given) for kind, filters in rivals(name).items()},
            "**network**": await network(name, model, given),
        }
        for given in headings.values()
    ]
    rows = [[kind, *(str(column[kind]) for column in columns)] for kind in columns[0]]
    return [[name, *headings], ["---"] * (len(headings) + 1), *rows]


async def main() -> None:
    """Print the tables of the README, and how long a megapixel takes."""
    for name in get_args(Name):
        async with in_process(name) as model:
            for row in await _table(name, model):
                print(f"| {' | '.join(row)} |")
            print(f"\n{await _seconds_per_megapixel(name, model):.1f} s for a megapixel\n")


if __name__ == "__main__":
    anyio.run(main)
