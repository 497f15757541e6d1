"""Show what was done: both photos side by side, with their measures."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.image_enhancement.images import Photo, as_pixels, to_8_bit
from examples.image_enhancement.measures import Measures

__all__ = ["compare"]

_HEIGHT, _WIDTH = 640, 960
_MARGIN = 16
_BACKGROUND, _TEXT, _FAINT = (24, 24, 27), (244, 244, 245), (161, 161, 170)


def compare(before: Photo, after: Photo, was: Measures, now: Measures) -> Photo:
    """Lay both photos out next to each other, in the same size, above their measures."""
    size = _fitted(after)
    left = _panel(before, size, ["before", *_lines(was)])
    right = _panel(after, size, ["after", *_lines(now)])
    width, height = left.width + right.width + 3 * _MARGIN, left.height + 2 * _MARGIN
    picture = Image.new("RGB", (width, height), _BACKGROUND)
    picture.paste(left, (_MARGIN, _MARGIN))
    picture.paste(right, (left.width + 2 * _MARGIN, _MARGIN))
    return Photo(as_pixels(picture))


def _fitted(photo: Photo) -> tuple[int, int]:
    height, width = photo.pixels.shape[:2]
    scale = min(_HEIGHT / height, _WIDTH / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _lines(measures: Measures) -> list[str]:
    return [
        f"score {measures.score:.2f}",
        f"{measures.width} x {measures.height} pixels, exposure {measures.exposure:+.1f} stops",
        f"noise {measures.noise:.1f}, sharpness {measures.sharpness:.2f}",
    ]


def _panel(photo: Photo, size: tuple[int, int], lines: Sequence[str]) -> Image.Image:
    """Draw a photo, on grey where it is transparent, and lines below, the first one large."""
    fonts = [_font(24), *[_font(18)] * (len(lines) - 1)]
    text_width = max(font.getlength(line) for line, font in zip(lines, fonts, strict=True))
    text_height = sum(round(1.5 * font.size) for font in fonts)
    width = max(size[0], math.ceil(text_width))
    panel = Image.new("RGB", (width, size[1] + _MARGIN // 2 + text_height), _BACKGROUND)
    panel.paste(_opaque(photo).resize(size, Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(panel)
    y = size[1] + _MARGIN // 2
    for line, font in zip(lines, fonts, strict=True):
        draw.text((0, y), line, _TEXT if font is fonts[0] else _FAINT, font)
        y += round(1.5 * font.size)
    return panel


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Take the font that comes with Pillow."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _opaque(photo: Photo) -> Image.Image:
    if photo.alpha is None:
        return Image.fromarray(to_8_bit(photo.pixels))
    alpha = photo.alpha[..., None]
    return Image.fromarray(to_8_bit(photo.pixels * alpha + np.float32(0.75) * (1 - alpha)))
