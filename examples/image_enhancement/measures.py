"""What can be said of a photo without knowing a better one."""

import math
from typing import Literal, TypeAlias

import numpy as np
from msgspec import Struct

from examples.image_enhancement.degrade import to_light
from examples.image_enhancement.images import Pixels
from examples.image_enhancement.noise import noise_sigma, smooth

__all__ = ["Fault", "Measures", "faults", "measure"]

Fault: TypeAlias = Literal["dark", "noisy", "small"]

_DARK_EV = -1.8
_NOISY = 4.0
_SMALL_PIXELS = 200_000

# Weights of red, green and blue in the luminance (ITU-R BT.709) and in the luma (ITU-R BT.601).
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# The filter of Burt and Adelson's pyramid, and what share of white noise is left in each band.
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_NOISE_IN_FINE, _NOISE_IN_COARSE = 0.7935, 0.0403
# A quarter of a level, squared: where there is less detail than that, none is missing.
_NO_DETAIL = 1e-6


class Measures(Struct, frozen=True):
    """What was measured of a photo.

    ========== ================================================================================
    exposure   stops of light from middle grey; below 0 is darker
    blown      share of the pixels that are white without detail
    noise      standard deviation of the noise, of the 255 levels of a file
    sharpness  fine detail against coarser detail; about 1 in a sharp photo, 0.5 in a blurred one
    score      the photo's quality by all of these and its size, from 0 to 1
    ========== ================================================================================
    """

    width: int
    height: int
    exposure: float
    blown: float
    noise: float
    sharpness: float
    score: float


def measure(pixels: Pixels) -> Measures:
    """Measure a photo."""
    height, width = pixels.shape[:2]
    exposure = _exposure(pixels)
    blown = float((pixels.min(-1) >= 254 / 255).mean())
    noise = 255 * noise_sigma(pixels)
    sharpness = _sharpness(pixels)
    score = _score(width * height, exposure, blown, noise, sharpness)
    return Measures(
        width, height, *(round(x, 4) for x in (exposure, blown, noise, sharpness, score))
    )


def faults(measures: Measures) -> tuple[Fault, ...]:
    """Say what is wrong enough to be mended, in the order in which to mend it.

    Noise comes after darkness, for light brings noise out, and before size, for it is not to grow.
    """
    wrong: dict[Fault, bool] = {
        "dark": measures.exposure < _DARK_EV,
        "noisy": measures.noise > _NOISY,
        "small": measures.width * measures.height < _SMALL_PIXELS,
    }
    return tuple(fault for fault, present in wrong.items() if present)


def _exposure(pixels: Pixels) -> float:
    """Compare the log-average luminance with middle grey, 0.18.

    Reinhard et al., "Photographic tone reproduction for digital images", SIGGRAPH 2002, equation 1.
    """
    luminance = to_light(pixels) @ _LUMINANCE
    return float(np.log2(luminance + 0.001).mean()) - math.log2(0.18)


def _sharpness(pixels: Pixels) -> float:
    """Compare the two finest bands of a Laplacian pyramid, without their noise.

    Octaves of a sharp photo have about the same energy (Field, "Relations between the statistics
    of natural images and the response properties of cortical cells", JOSA A 4, 1987); blur takes
    it from the finest. The pyramid is Burt and Adelson's ("The Laplacian pyramid as a compact image
    code", IEEE TCOM 31, 1983).
    """
    luma = pixels @ _LUMA
    smoothed = smooth(luma, _BINOMIAL)
    coarse = smoothed[::2, ::2]
    noise = noise_sigma(luma) ** 2
    fine_energy = float(np.square(luma - smoothed).mean()) - _NOISE_IN_FINE * noise
    coarse_energy = (
        float(np.square(coarse - smooth(coarse, _BINOMIAL)).mean()) - _NOISE_IN_COARSE * noise
    )
    ratio = (max(fine_energy, 0) + _NO_DETAIL) / (max(coarse_energy, 0) + _NO_DETAIL)
    return min(2.0, math.sqrt(ratio))


def _score(pixels: int, exposure: float, blown: float, noise: float, sharpness: float) -> float:
    """Combine how desirable each measure is, by their geometric mean: none makes up for another.

    Derringer and Suich, "Simultaneous optimization of several response variables",
    Journal of Quality Technology 12, 1980.
    Where the curves bend was chosen by eye, from photos that were made worse step by step.
    """
    beyond = max(0.0, -1.5 - exposure, exposure - 1.0)
    desirable = (
        math.exp(-((beyond / 1.7) ** 2)) * math.exp(-max(0.0, blown - 0.05) / 0.3),
        math.exp(-noise / 20),
        min(1.0, sharpness / 0.8),
        min(1.0, pixels / 500_000) ** 0.25,
    )
    return math.prod(desirable) ** (1 / len(desirable))
