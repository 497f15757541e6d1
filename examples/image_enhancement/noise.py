"""How noisy a photo is, by itself.

Noise is everywhere and goes in all directions alike; what a photo shows does neither.
So small patches are taken to pieces (their covariance's eigenvalues), and the many small pieces are
the noise (Chen, Zhu and Heng, "An efficient statistical method for image noise level estimation",
ICCV 2015). Patches with much texture are left out, again and again, as long as that lowers the
estimate (Liu, Tanaka and Okutomi, "Single-image noise level estimation for blind denoising",
IEEE TIP 22, 2013).
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from examples.image_enhancement.images import Pixels

__all__ = ["noise_map", "noise_sigma", "smooth"]

_Patches: TypeAlias = NDArray[np.float64]

_SIDE = 7
_ENOUGH = 400  # patches, for a covariance of 49 × 49
_MOST = 60_000
_LEVELS = 8
_ROUNDS = 6
_MEAN = (1 / 7,) * 7
# Weak texture: the variance of a patch of pure noise is seldom above this many times the noise's.
_WEAK = 1.5
# From one level of brightness to the next, noise grows or shrinks less than texture does.
_STEEPEST, _STEEPNESS = 1.6, 8.0


def noise_sigma(pixels: Pixels) -> float:
    """Estimate the standard deviation of the noise, in the units of the pixels.

    `pixels` has any number of channels, also none: (height, width).
    A photo with no patch that is neither black nor white somewhere has no noise to speak of.
    """
    return _sigma(_patches(pixels))


def noise_map(pixels: Pixels) -> Pixels:
    """Estimate the noise at each pixel and channel, in the shape and the units of the pixels.

    Noise depends on the light: a sensor's, and much more that of a photo that was brightened.
    It is estimated for several levels of brightness, and read at the local mean.
    """
    levels, sigmas = _by_level(_patches(pixels))
    noise: Pixels = np.interp(smooth(pixels, _MEAN), levels, sigmas).astype(np.float32)
    return noise


def smooth(pixels: Pixels, weights: Sequence[float]) -> Pixels:
    """Average each pixel with its neighbours along both axes, by an odd number of weights."""
    radius = len(weights) // 2
    for axis in (0, 1):
        margin = [(radius, radius) if i == axis else (0, 0) for i in range(pixels.ndim)]
        padded = np.moveaxis(np.pad(pixels, margin, mode="symmetric"), axis, 0)
        total = np.zeros_like(padded[2 * radius :])
        for i, weight in enumerate(weights):
            total += weight * padded[i : i + len(total)]
        pixels = np.moveaxis(total, 0, axis)
    return pixels


def _by_level(patches: _Patches) -> tuple[list[float], list[float]]:
    means = patches.mean(1)
    groups = np.array_split(np.argsort(means), max(1, min(_LEVELS, len(patches) // (2 * _ENOUGH))))
    levels = [float(means[group].mean()) if len(group) else 0.5 for group in groups]
    sigmas = [_sigma(patches[group]) for group in groups]
    return levels, _without_texture(levels, sigmas)


def _without_texture(levels: list[float], sigmas: list[float]) -> list[float]:
    """Lower what only texture can have raised: each level is bounded by its neighbours."""
    sigmas = list(sigmas)
    for order in (range(1, len(sigmas)), range(len(sigmas) - 2, -1, -1)):
        for i in order:
            neighbour = i - order.step
            steepest = max(_STEEPEST, math.exp(_STEEPNESS * abs(levels[i] - levels[neighbour])))
            sigmas[i] = min(sigmas[i], max(sigmas[neighbour], 0.5 / 255) * steepest)
    return sigmas


def _patches(pixels: Pixels) -> _Patches:
    """Take patches from all over, each (49) in one channel and nowhere clipped."""
    planes = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    step = max(3, math.isqrt(planes.size // _MOST))
    if min(planes.shape[1:]) < _SIDE:
        return np.empty((0, _SIDE * _SIDE))
    windows = np.lib.stride_tricks.sliding_window_view(planes, (_SIDE, _SIDE), (1, 2))
    patches = windows[:, ::step, ::step].reshape(-1, _SIDE * _SIDE).astype(np.float64)
    lowest, highest = patches.min(1), patches.max(1)
    usable: _Patches = patches[(lowest > 0) & (highest < 1) & (lowest < highest)]
    return usable


def _sigma(patches: _Patches) -> float:
    sigma = _smallest_pieces(patches)
    variances = patches.var(1)
    for _ in range(_ROUNDS):
        weak = patches[variances < _WEAK * sigma**2]
        if len(weak) < _ENOUGH:
            break
        before, sigma = sigma, min(sigma, _smallest_pieces(weak))
        if sigma > 0.98 * before:
            break
    return sigma


def _smallest_pieces(patches: _Patches) -> float:
    """Take the largest set of small eigenvalues whose mean and median agree: those of the noise."""
    if len(patches) < 2:
        return 0
    values = np.linalg.eigvalsh(np.cov(patches, rowvar=False)).clip(0)
    means = values.cumsum() / np.arange(1, len(values) + 1)
    for count in range(len(values), 0, -1):
        if means[count - 1] <= np.median(values[:count]):
            return math.sqrt(means[count - 1])
    return 0
