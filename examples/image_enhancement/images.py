"""Photos in files and in memory: JPEG, PNG, WebP and TIFF in, JPEG, PNG and WebP out."""

import io
import os
import tempfile
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from asyafw.exceptions import Reject
from examples.image_enhancement.sources import BOUNDS, Bounds, fetch

__all__ = ["Photo", "Pixels", "as_pixels", "decode", "encode", "load", "resize", "save", "to_8_bit"]

Pixels: TypeAlias = NDArray[np.float32]
"""sRGB values from 0 to 1, shaped (height, width, 3)."""

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
_FORMAT_OF = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
_OPTIONS: dict[str, dict[str, int]] = {
    "JPEG": {"quality": 92, "subsampling": 0, "optimize": 1},
    "PNG": {},
    "WEBP": {"quality": 92, "method": 4},
}
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class Photo(Struct, frozen=True, eq=False):
    """A photo in memory.

    `alpha` (height, width) is from 0 to 1, None where nothing is transparent.
    A `grey` photo has three equal channels and is written with one.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    grey: bool = False


def load(uri: str, bounds: Bounds = BOUNDS) -> Photo:
    """Fetch and decode a photo; it blocks, see `fetch` and `decode`."""
    return decode(fetch(uri, bounds), bounds, name=uri)


def decode(data: bytes, bounds: Bounds = BOUNDS, *, name: str = "photo") -> Photo:
    """Decode a file as it is meant to be seen: upright by its EXIF tag, in sRGB by its profile.

    The first picture of several is taken.
    Sixteen bits are kept for greys; Pillow reduces colours to eight
    (https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes).
    Alpha is kept. What is wholly transparent gets the mean colour of the rest.

    Raises:
        Reject: it is no such file, it is broken, or it has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, bounds, name)
            return _photo(image)
    except Reject:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Reject(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise Reject(f"{name}: is no {', '.join(_FORMATS)} file") from error
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise Reject(f"{name}: is broken: {error}") from error


def encode(photo: Photo, suffix: str) -> bytes:
    """Write a photo as a file of the kind that `suffix` (``.jpg``, ``.png``, ``.webp``) names.

    It has eight bits, is sRGB, and carries no metadata.
    JPEG has no transparency: the photo is laid on white.

    Raises:
        Reject: there is no such kind.
    """
    kind = _FORMAT_OF.get(suffix.lower())
    if kind is None:
        raise Reject(f"cannot write {suffix!r}: it is one of {', '.join(_FORMAT_OF)}")
    buffer = io.BytesIO()
    _image(photo, opaque=kind == "JPEG").save(buffer, kind, **_OPTIONS[kind])
    return buffer.getvalue()


def save(photo: Photo, path: Path) -> None:
    """Write a photo to a file, of the kind that the suffix names.

    The file is there as a whole or not at all, whoever looks and whenever the process dies.
    """
    data = encode(photo, path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def resize(pixels: Pixels, width: int, height: int, filter_: Image.Resampling) -> Pixels:
    """Scale pixels, or an alpha channel, in full precision."""
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), filter_))
        for plane in np.moveaxis(np.atleast_3d(pixels), -1, 0)
    ]
    scaled: Pixels = np.clip(np.stack(planes, -1), 0, 1)
    return scaled if pixels.ndim == 3 else scaled[..., 0]


def as_pixels(image: Image.Image) -> Pixels:
    """Give an 8-bit RGB image as numbers."""
    return np.asarray(image.convert("RGB")).astype(np.float32) / np.float32(255)


def to_8_bit(pixels: Pixels) -> NDArray[np.uint8]:
    """Round to the 256 levels of a file."""
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _check_size(size: tuple[int, int], bounds: Bounds, name: str) -> None:
    width, height = size
    if width * height > bounds.pixels:
        raise Reject(f"{name}: {width} × {height} pixels are more than {bounds.pixels:,}")


def _photo(image: Image.Image) -> Photo:
    upright = _upright(image)
    if upright.mode in _DEEP_GREY:
        grey = np.clip(np.asarray(upright, np.float32) / np.float32(65535), 0, 1)
        return Photo(np.repeat(grey[..., None], 3, -1), grey=True)
    if upright.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    grey = upright.mode in ("1", "L", "LA", "La")
    alpha = None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright.getchannel("A"), np.float32) / np.float32(255)
    pixels = as_pixels(_to_srgb(upright))
    if alpha is None or alpha.min() == 1:
        return Photo(pixels, grey=grey)
    return Photo(_fill(pixels, alpha), alpha, grey)


def _upright(image: Image.Image) -> Image.Image:
    """Turn by the EXIF tag; a tag that cannot be read says nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 — Pillow raises many kinds of errors on broken tags
        return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert by the embedded colour profile; one that is broken or does not fit says nothing."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "RGBA"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            image if image.mode == "CMYK" else image.convert("RGB"),
            source,
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError):
        return image
    return converted or image


def _fill(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Give what is wholly transparent the mean colour of the rest."""
    visible = alpha > 0
    mean = pixels[visible].mean(0) if visible.any() else np.float32(0.5)
    return np.where(visible[..., None], pixels, mean)


def _image(photo: Photo, *, opaque: bool) -> Image.Image:
    pixels, alpha = photo.pixels, photo.alpha
    if alpha is not None and opaque:
        pixels = pixels * alpha[..., None] + (1 - alpha[..., None])
    image = Image.fromarray(to_8_bit(pixels))
    if photo.grey:
        image = image.convert("L")
    if alpha is not None and not opaque:
        image.putalpha(Image.fromarray(to_8_bit(alpha)))
    return image
