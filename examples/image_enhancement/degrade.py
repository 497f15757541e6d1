"""Make good photos worse as cameras and web sites do: too little light, noise, too few pixels.

The networks learn from such pairs and are measured on them.
Pixels are sRGB values from 0 to 1; light is linear.
"""

import io

import numpy as np
from numpy.random import Generator
from PIL import Image

from examples.image_enhancement.images import Pixels, as_pixels, resize, to_8_bit

__all__ = ["add_noise", "compress", "expose", "halve", "quantise", "to_light", "to_srgb"]


def to_light(pixels: Pixels) -> Pixels:
    """Decode sRGB into linear light (IEC 61966-2-1)."""
    curve = ((np.maximum(pixels, 0) + 0.055) / 1.055) ** 2.4
    return np.where(pixels <= 0.04045, pixels / 12.92, curve).astype(np.float32)


def to_srgb(light: Pixels) -> Pixels:
    """Encode linear light as sRGB (IEC 61966-2-1), clipped to what a file can hold."""
    light = np.clip(light, 0, 1)
    curve = 1.055 * light ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, curve).astype(np.float32)


def quantise(pixels: Pixels) -> Pixels:
    """Round to the 256 levels of a file."""
    return to_8_bit(pixels).astype(np.float32) / np.float32(255)


def expose(
    pixels: Pixels, stops: float | Pixels, random: Generator, *, shot: float = 0, read: float = 0
) -> Pixels:
    """Take the photo again with `stops` more light; fewer than 0 darken it.

    The sensor's noise does not shrink with the light; its variance is ``shot · light + read²``
    (Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data", IEEE TIP 17, 2008).
    """
    light = np.minimum(to_light(pixels) * np.exp2(np.float32(stops)), 1)
    noise = random.standard_normal(light.shape, np.float32)
    return to_srgb(light + noise * np.sqrt(shot * light + read**2))


def add_noise(pixels: Pixels, sigma: float, random: Generator) -> Pixels:
    """Add white Gaussian noise of standard deviation `sigma`, in the units of the pixels."""
    noise = random.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels + noise * np.float32(sigma), 0, 1)


def halve(pixels: Pixels) -> Pixels:
    """Scale to half the width and height, both even, by the usual bicubic filter."""
    height, width = pixels.shape[:2]
    return resize(pixels, width // 2, height // 2, Image.Resampling.BICUBIC)


def compress(pixels: Pixels, quality: int) -> Pixels:
    """Pass through a JPEG file of that quality."""
    buffer = io.BytesIO()
    Image.fromarray(to_8_bit(pixels)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return as_pixels(Image.open(buffer))
