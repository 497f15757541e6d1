from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from asyafw_triton import InProcessModel

from asyafw.exceptions import Reject
from asyafw.model import Model
from examples.image_enhancement import models
from examples.image_enhancement.degrade import add_noise, expose, quantise
from examples.image_enhancement.evaluate import best, cases, held_out, network, rivals
from examples.image_enhancement.images import Photo, Pixels
from examples.image_enhancement.measures import measure
from examples.image_enhancement.models import Name, in_process, thumbnail, trained
from examples.image_enhancement.noise import noise_map

pytestmark = pytest.mark.anyio

NAMES: tuple[Name, ...] = get_args(Name)
PHOTOS = held_out()


@pytest.fixture
async def opened(name: Name) -> AsyncIterator[InProcessModel]:
    async with in_process(name) as model:
        yield model


def enhance(name: Name) -> Callable[[Model, Photo], Awaitable[Photo]]:
    function: Callable[[Model, Photo], Awaitable[Photo]] = getattr(models, name)
    return function


def dark_and_noisy(photo: Pixels) -> Pixels:
    random = np.random.default_rng(1)
    return quantise(add_noise(expose(photo, -2, random), 6 / 255, random))


def untiled(name: Name, pixels: Pixels) -> Pixels:
    """Pass a whole photo through a network at once."""
    given = {
        "relight": [pixels, thumbnail(pixels), np.array([0, 0, 1, 1], np.float32)],
        "denoise": [pixels, noise_map(pixels)],
        "upscale": [pixels],
    }[name]
    tensors = [torch.from_numpy(x if x.ndim == 1 else np.moveaxis(x, -1, 0).copy()) for x in given]
    with torch.inference_mode():
        result: Pixels = trained(name)(*(tensor[None] for tensor in tensors))[0].numpy()
    return np.moveaxis(result, 0, -1)


@pytest.mark.parametrize("name", NAMES)
async def test_tiles_leave_no_seam(name: Name, opened: Model) -> None:
    large = np.tile(dark_and_noisy(PHOTOS["astronaut"]), (2, 2, 1))[:611, :533]

    tiled = (await enhance(name)(opened, Photo(large))).pixels

    assert np.allclose(tiled, untiled(name, large), atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (37, 23)])
@pytest.mark.parametrize("name", NAMES)
async def test_a_photo_of_any_size_is_enhanced(
    name: Name, opened: Model, size: tuple[int, int]
) -> None:
    photo = Photo(PHOTOS["coffee"][: size[0], : size[1]], np.full(size, 0.5, np.float32))

    enhanced = await enhance(name)(opened, photo)

    scale = 2 if name == "upscale" else 1
    assert enhanced.pixels.shape == (scale * size[0], scale * size[1], 3)
    assert enhanced.pixels.dtype == np.float32
    assert 0 <= enhanced.pixels.min() <= enhanced.pixels.max() <= 1
    assert enhanced.alpha is not None
    assert enhanced.alpha.shape == enhanced.pixels.shape[:2]
    assert np.allclose(enhanced.alpha, 0.5)


@pytest.mark.parametrize("name", NAMES)
async def test_the_same_photo_gives_the_same_result(name: Name, opened: Model) -> None:
    photo = Photo(dark_and_noisy(PHOTOS["chelsea"]))

    first, second = [(await enhance(name)(opened, photo)).pixels for _ in range(2)]

    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
async def test_a_wrong_tensor_is_rejected(name: Name, opened: Model) -> None:
    with pytest.raises(Reject, match=rf"model '{name}': tensor 'image' is float64"):
        await opened.infer({spec.name: np.zeros((1, 3, 8, 8)) for spec in opened.inputs})


@pytest.mark.parametrize("name", NAMES)
async def test_each_network_beats_its_classical_rivals(name: Name, opened: Model) -> None:
    for heading, given in cases(name, side=128).items():
        ours = await network(name, opened, given)
        for kind, filters in rivals(name).items():
            theirs = best(filters, given)
            assert ours.psnr > theirs.psnr, (heading, kind, ours, theirs)
            # A stretch gets the scale wrong, which SSIM hardly sees.
            assert ours.ssim > theirs.ssim or kind == "stretch", (heading, kind, ours, theirs)


@pytest.mark.parametrize("name", ["relight", "denoise"])
async def test_a_good_photo_stays_as_it_is(name: Name, opened: Model) -> None:
    for photo in ("astronaut", "chelsea", "coffee"):
        good = PHOTOS[photo]

        enhanced = (await enhance(name)(opened, Photo(good))).pixels

        assert measure(enhanced).score > measure(good).score - 0.01
        assert np.abs(enhanced - good).mean() < 0.05


@pytest.mark.parametrize("name", NAMES)
async def test_hues_stay(name: Name, opened: Model) -> None:
    photo = dark_and_noisy(PHOTOS["coffee"])

    enhanced = (await enhance(name)(opened, Photo(photo))).pixels

    before, after = (x.mean((0, 1)) / x.mean() for x in (photo, enhanced))
    assert np.allclose(before, after, atol=0.04)


def test_weights_are_small() -> None:
    sizes = [path.stat().st_size for path in Path(models.__file__).parent.glob("weights/*")]

    assert len(sizes) == len(NAMES)
    assert sum(sizes) < 1_000_000
