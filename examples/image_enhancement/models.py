"""The models: what each takes and gives, how to load it, and how a photo passes through it.

The functions take any `Model` with these tensors, be it in this process or behind a server.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from anyio import to_thread
from asyafw_triton import InProcessModel
from msgspec.structs import replace
from PIL import Image

from asyafw.model import Array, Model, TensorSpec
from examples.image_enhancement.images import Photo, Pixels, resize
from examples.image_enhancement.noise import noise_map
from examples.image_enhancement.tiles import Tile, tiles

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "Name",
    "denoise",
    "in_process",
    "relight",
    "thumbnail",
    "trained",
    "upscale",
]

Name: TypeAlias = Literal["relight", "denoise", "upscale"]

_WEIGHTS = Path(__file__).with_name("weights")
_SIDE = 512
# At least as far as each network sees, and even, for `Denoise` works on squares of two pixels.
_OVERLAP: dict[Name, int] = {"relight": 0, "denoise": 24, "upscale": 16}
_THUMBNAIL = 128

_IMAGE = TensorSpec("image", "float32", (None, 3, None, None))
INPUTS: dict[Name, tuple[TensorSpec, ...]] = {
    "relight": (
        _IMAGE,
        TensorSpec("thumbnail", "float32", (None, 3, _THUMBNAIL, _THUMBNAIL)),
        TensorSpec("window", "float32", (None, 4)),
    ),
    "denoise": (_IMAGE, TensorSpec("sigma", "float32", (None, 3, None, None))),
    "upscale": (_IMAGE,),
}
OUTPUTS = (TensorSpec("result", "float32", (None, 3, None, None)),)


def in_process(name: Name) -> InProcessModel:
    """Run a model in this process; it is loaded when it is opened with ``async with``."""
    return InProcessModel(partial(trained, name), name=name, inputs=INPUTS[name], outputs=OUTPUTS)


def trained(name: Name) -> "Module":
    """Load a network with its weights; it imports torch, which takes a while."""
    import torch

    from examples.image_enhancement.networks import NETWORKS

    network = NETWORKS[name]()
    weights = torch.load(_WEIGHTS / f"{name}.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    # On a CPU, convolutions are quicker with a pixel's channels side by side.
    return network.to(memory_format=torch.channels_last).eval()


async def relight(model: Model, photo: Photo) -> Photo:
    """Brighten a dark photo; what is bright enough stays as it is."""
    height, width = photo.pixels.shape[:2]
    small = _batch(await to_thread.run_sync(thumbnail, photo.pixels))

    def inputs(tile: Tile) -> dict[str, Array]:
        top, left, bottom, right = tile.given
        window = [[top / height, left / width, bottom / height, right / width]]
        return {"thumbnail": small, "window": np.array(window, np.float32)}

    return replace(photo, pixels=await _through(model, "relight", photo.pixels, inputs))


async def denoise(model: Model, photo: Photo) -> Photo:
    """Take away as much noise as is found in the photo."""
    sigma = await to_thread.run_sync(noise_map, photo.pixels)

    def inputs(tile: Tile) -> dict[str, Array]:
        return {"sigma": _batch(sigma[tile.source])}

    return replace(photo, pixels=await _through(model, "denoise", photo.pixels, inputs))


async def upscale(model: Model, photo: Photo) -> Photo:
    """Double width and height."""
    pixels = await _through(model, "upscale", photo.pixels, lambda _: {}, scale=2)
    if photo.alpha is None:
        return replace(photo, pixels=pixels)
    height, width = pixels.shape[:2]
    alpha = await to_thread.run_sync(resize, photo.alpha, width, height, Image.Resampling.BICUBIC)
    return replace(photo, pixels=pixels, alpha=alpha)


def thumbnail(pixels: Pixels) -> Pixels:
    """Scale to the square on which `Relight` decides, whatever the shape of the photo."""
    return resize(pixels, _THUMBNAIL, _THUMBNAIL, Image.Resampling.BOX)


async def _through(
    model: Model,
    name: Name,
    pixels: Pixels,
    inputs: Callable[[Tile], dict[str, Array]],
    *,
    scale: int = 1,
) -> Pixels:
    """Pass a photo through a model, tile by tile."""
    height, width = pixels.shape[:2]
    result = np.empty((scale * height, scale * width, 3), np.float32)
    for tile in tiles(height, width, side=_SIDE, overlap=_OVERLAP[name]):
        answer = await model.infer({"image": _batch(pixels[tile.source]), **inputs(tile)})
        part = np.moveaxis(answer["result"][0], 0, -1)
        result[tile.target(scale)] = part[tile.inner(scale)]
    return result


def _batch(pixels: Pixels) -> Pixels:
    """Lay pixels out as networks take them: (1, channel, height, width)."""
    return np.moveaxis(pixels, -1, 0)[None]
