import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from tifffile import imwrite

from asyafw.exceptions import Reject
from examples.image_enhancement.images import Photo, decode, encode, load, resize, save

RED, BLUE = (200, 30, 20), (20, 40, 180)
ORIENTATION = 0x0112


def two_colours() -> Image.Image:
    """Wider than high; red on the left, blue on the right."""
    image = Image.new("RGB", (24, 16), RED)
    image.paste(BLUE, (12, 0, 24, 16))
    return image


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(photo: Photo) -> NDArray[np.int64]:
    return np.round(photo.pixels * 255).astype(np.int64)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_photos_of_every_kind_are_read(kind: str, options: dict[str, object]) -> None:
    photo = decode(file(two_colours(), kind, **options))

    assert photo.pixels.dtype == np.float32
    assert photo.pixels.shape == (16, 24, 3)
    assert photo.alpha is None
    assert not photo.grey
    assert np.abs(levels(photo)[8, 4] - RED).max() <= 6
    assert np.abs(levels(photo)[8, 20] - BLUE).max() <= 6


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".PNG"])
def test_a_photo_survives_being_written(suffix: str) -> None:
    photo = decode(file(two_colours(), "PNG"))

    again = decode(encode(photo, suffix))

    assert again.pixels.shape == photo.pixels.shape
    assert np.abs(again.pixels - photo.pixels)[:, [2, 20]].max() < 0.03


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, RED), (2, BLUE), (3, BLUE), (4, RED), (5, RED), (6, RED), (7, BLUE), (8, BLUE)],
)
def test_a_photo_stands_as_its_exif_tag_says(orientation: int, corner: tuple[int, ...]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation

    photo = decode(file(two_colours(), "PNG", exif=exif))

    upright = orientation < 5
    assert photo.pixels.shape == ((16, 24, 3) if upright else (24, 16, 3))
    assert tuple(levels(photo)[0, 0]) == corner


def test_a_photo_that_was_turned_is_not_turned_again() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6

    once = decode(file(two_colours(), "JPEG", exif=exif))
    twice = decode(encode(once, ".jpg"))

    assert twice.pixels.shape == once.pixels.shape == (24, 16, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_no_reason_to_refuse_a_photo() -> None:
    photo = decode(file(two_colours(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"))

    assert photo.pixels.shape == (16, 24, 3)


def test_transparency_is_kept() -> None:
    image = two_colours().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((24, 16)))

    photo = decode(encode(decode(file(image, "PNG")), ".png"))

    assert photo.alpha is not None
    assert np.array_equal(np.round(photo.alpha * 255), np.asarray(image.getchannel("A")))


def test_what_cannot_be_seen_has_the_colour_of_the_rest() -> None:
    image = two_colours().convert("RGBA")
    image.paste((0, 255, 0, 0), (12, 0, 24, 16))

    photo = decode(file(image, "PNG"))

    assert tuple(levels(photo)[0, 20]) == RED


def test_a_palette_with_a_transparent_colour_is_read() -> None:
    image = two_colours().quantize(4)

    photo = decode(file(image, "PNG", transparency=image.getpixel((0, 0))))

    assert photo.alpha is not None
    assert (photo.alpha[0, 0], photo.alpha[0, 20]) == (0, 1)


def test_an_alpha_channel_that_hides_nothing_is_dropped() -> None:
    assert decode(file(two_colours().convert("RGBA"), "PNG")).alpha is None


def test_a_transparent_photo_is_laid_on_white_for_jpeg() -> None:
    photo = Photo(np.zeros((16, 16, 3), np.float32), np.full((16, 16), 0.5, np.float32))

    again = decode(encode(photo, ".jpg"))

    assert again.alpha is None
    assert np.allclose(again.pixels, 0.5, atol=0.02)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_greyscale_stays_greyscale(kind: str) -> None:
    photo = decode(file(Image.linear_gradient("L"), kind))

    assert photo.grey
    assert (photo.pixels == photo.pixels[..., :1]).all()
    assert Image.open(io.BytesIO(encode(photo, ".png"))).mode == "L"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept_for_greys(kind: str) -> None:
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)

    photo = decode(file(Image.fromarray(ramp), kind))

    assert photo.grey
    assert np.allclose(photo.pixels[..., 0] * 65535, ramp, atol=0.5)


def test_colours_of_sixteen_bits_are_read() -> None:
    deep = np.full((16, 24, 3), (51400, 257, 65535), np.uint16)
    tiff = io.BytesIO()
    imwrite(tiff, deep, photometric="rgb")

    for data in (tiff.getvalue(), deep_png(deep)):
        photo = decode(data)
        assert photo.pixels.shape == (16, 24, 3)
        assert tuple(levels(photo)[3, 3]) == (200, 1, 255)


def deep_png(pixels: NDArray[np.uint16]) -> bytes:
    """Write sixteen bits a channel, which Pillow does not."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_colours_are_those_of_the_profile() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A colour space in which red and blue have changed places.
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")

    photo = decode(file(two_colours(), "PNG", icc_profile=srgb))
    other = decode(file(two_colours(), "PNG", icc_profile=swapped))

    assert np.abs(levels(photo)[0, 0] - RED).max() <= 1
    assert np.abs(levels(other)[0, 0] - RED[::-1]).max() <= 2


def test_a_profile_that_does_not_fit_is_passed_over() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()

    for profile in (lab, b"no profile"):
        assert tuple(levels(decode(file(two_colours(), "PNG", icc_profile=profile)))[0, 0]) == RED


def test_cmyk_becomes_rgb() -> None:
    photo = decode(file(two_colours().convert("CMYK"), "JPEG", quality=95))

    assert np.abs(levels(photo)[8, 4] - RED).max() <= 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is no JPEG, PNG, WEBP, TIFF file"),
        (b"no photo at all", "is no JPEG, PNG, WEBP, TIFF file"),
        (file(two_colours(), "GIF"), "is no JPEG, PNG, WEBP, TIFF file"),
        (file(Image.effect_noise((200, 200), 90), "JPEG")[:2000], "is broken: .*truncated"),
        (file(two_colours(), "PNG")[:-30], "is broken"),
        (file(two_colours(), "WEBP")[:-10], "is (broken|no)"),
        (file(Image.new("F", (4, 4)), "TIFF"), "is broken: .*floating-point"),
    ],
)
def test_what_is_no_photo_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Reject, match=f"^photos/x: {reason}"):
        decode(data, name="photos/x")


def test_every_cut_of_a_file_is_read_or_refused() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = file(two_colours(), kind)
        for length in range(0, len(data), 7):
            with suppress(Reject):
                decode(data[:length])


def test_an_enormous_photo_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Reject, match=r"x: 6000 × 6000 pixels are more than 25,000,000"):
        decode(claiming(6000), name="x")


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused(side: int) -> None:
    with pytest.raises(Reject, match=r"\d+ pixels"):
        decode(claiming(side))


def claiming(side: int) -> bytes:
    """Make a small PNG file that claims to hold a large picture."""
    data = bytearray(file(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    photo = decode(file(two_colours(), "PNG"))
    path, taken = tmp_path / "new" / "photo.png", tmp_path / "new" / "taken.png"
    taken.mkdir(parents=True)

    save(photo, path)
    with pytest.raises(OSError, match=r"taken\.png"):
        save(photo, taken)

    assert {*path.parent.iterdir()} == {path, taken}
    assert np.array_equal(load(str(path)).pixels, photo.pixels)


def test_a_kind_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    photo = decode(file(two_colours(), "PNG"))

    with pytest.raises(Reject, match=r"cannot write '.gif': it is one of .jpg, .jpeg, .png, .webp"):
        save(photo, tmp_path / "photo.gif")


def test_transparency_is_scaled_as_colours_are() -> None:
    alpha = np.asarray(Image.linear_gradient("L")).astype(np.float32) / np.float32(255)

    scaled = resize(alpha, 64, 32, Image.Resampling.BOX)

    assert scaled.shape == (32, 64)
    assert abs(float(scaled.mean() - alpha.mean())) < 0.001
