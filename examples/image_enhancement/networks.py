"""The networks: small enough for a CPU, and to be kept beside the code.

Tensors are float32 in the order (batch, channel, height, width); colours are sRGB from 0 to 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.image_enhancement.models import Name

__all__ = ["NETWORKS", "Denoise", "Relight", "Upscale"]


class Relight(nn.Module):
    """Brighten by a gain that depends on the place and on the brightness there.

    A thumbnail of the photo decides on a coarse grid of gains over brightness, y and x, which is
    then read for each pixel: the two sides of an edge have gains of their own, so no halo shows
    (Gharbi et al., "Deep bilateral learning for real-time image enhancement", SIGGRAPH 2017).
    The channels of a pixel share one gain, so that hues stay; the brightest of them stands for its
    brightness (Guo, Li and Ling, "LIME: low-light image enhancement via illumination map
    estimation", IEEE TIP 26, 2017).
    How dark the photo is does not hide what it shows: the network sees it stretched to white, and
    learns how much more or less than that is right.
    """

    def __init__(self, width: int = 32, levels: int = 8, dropout: float = 0.3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _halving(5, width // 2),
            _halving(width // 2, width),
            _halving(width, 2 * width),
            _halving(2 * width, 2 * width),
        )
        self.local = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.overall = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * width + len(_QUANTILES) + 1, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, 2 * width),
        )
        self.gains = nn.Conv2d(2 * width, levels, 1)

    def forward(self, image: Tensor, thumbnail: Tensor, window: Tensor) -> Tensor:
        """Relight a part of a photo.

        `thumbnail` is the whole photo, scaled to a square.
        `window` (batch, 4) is the part's place in it: top, left, bottom, right, each from 0 to 1.
        """
        return _displayable(self.brighten(image, *self.decide(thumbnail), window), self)

    def decide(self, thumbnail: Tensor) -> tuple[Tensor, Tensor]:
        """Find what is the white of the photo, (batch, 1), and the grid of gains.

        The grid (batch, 1, brightness, y, x) holds logarithms to the base 2, beyond the stretch.
        """
        value = thumbnail.amax(1).flatten(1)
        quantiles = torch.quantile(value, value.new_tensor(_QUANTILES), 1).T
        white = quantiles[:, -2:-1].clamp(min=1 / 32)
        stretched = (thumbnail / white[:, :, None, None]).clamp(0, 1)
        brightest, mean = stretched.amax(1, keepdim=True), stretched.mean(1, keepdim=True)
        features = self.features(torch.cat([stretched, brightest.sqrt(), mean], 1))
        spread = (quantiles / white).clamp(max=2).sqrt()
        pooled = [features.mean((2, 3)), features.amax((2, 3)), spread, torch.log2(white)]
        overall = self.overall(torch.cat(pooled, 1))[:, :, None, None]
        gains: Tensor = self.gains(functional.relu(self.local(features) + overall))
        return white, gains[:, None]

    def brighten(self, image: Tensor, white: Tensor, grid: Tensor, window: Tensor) -> Tensor:
        """Read the grid at the place and the brightness of each pixel, and apply its gain."""
        height, width = image.shape[2:]
        value = (image.amax(1) / white[:, :, None]).clamp(0, 1).sqrt()
        top, left, bottom, right = (edge[:, None, None] for edge in window.unbind(1))
        across = (torch.arange(width, device=image.device) + 0.5) / width
        down = (torch.arange(height, device=image.device)[:, None] + 0.5) / height
        x = (left + (right - left) * across).expand_as(value)
        y = (top + (bottom - top) * down).expand_as(value)
        places = torch.stack([x, y, value], -1)[:, None] * 2 - 1
        gains = functional.grid_sample(grid, places, padding_mode="border", align_corners=False)
        return image * torch.exp2(gains[:, :, 0] - torch.log2(white)[:, :, None, None])


class Denoise(nn.Module):
    """Take away noise of a given strength.

    A residual network at half the resolution, told how strong the noise is at each pixel and
    channel (Zhang, Zuo and Zhang, "FFDNet: toward a fast and flexible solution for CNN-based image
    denoising", IEEE TIP 27, 2018).
    """

    def __init__(self, width: int = 48, blocks: int = 4) -> None:
        super().__init__()
        self.body = _body(24, width, 12, blocks)

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        """Denoise; `sigma` has the shape of the image and tells the noise's standard deviation."""
        height, width = image.shape[2:]
        both = torch.cat([image, sigma], 1)
        even = functional.pad(both, (0, width % 2, 0, height % 2), mode="replicate")
        noise = functional.pixel_shuffle(self.body(functional.pixel_unshuffle(even, 2)), 2)
        return _displayable(image - noise[:, :, :height, :width], self)


class Upscale(nn.Module):
    """Double width and height.

    The network works at the low resolution and gives four pixels for each
    (Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", CVPR 2016); what it gives goes on top of bicubic interpolation.
    """

    def __init__(self, width: int = 40, blocks: int = 3) -> None:
        super().__init__()
        self.body = _body(3, width, 12, blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Upscale."""
        smooth = functional.interpolate(image, scale_factor=2, mode="bicubic")
        return _displayable(smooth + functional.pixel_shuffle(self.body(image), 2), self)


NETWORKS: dict[Name, type[nn.Module]] = {
    "relight": Relight,
    "denoise": Denoise,
    "upscale": Upscale,
}

# Of the brightness; the last but one is what counts as white.
_QUANTILES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998)


def _displayable(image: Tensor, network: nn.Module) -> Tensor:
    """Clip to what can be shown, but not in training: beyond the clip nothing would be learned."""
    return image if network.training else image.clamp(0, 1)


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.ReLU())


def _body(inputs: int, width: int, outputs: int, blocks: int) -> nn.Sequential:
    """Make a residual network that adds next to nothing before it has learned anything."""
    last = nn.Conv2d(width, outputs, 3, padding=1)
    last.weight.data.mul_(0.1)
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1), *(_Residual(width) for _ in range(blocks)), last
    )


class _Residual(nn.Module):
    """Two convolutions that add to what they are given; without that it would not learn."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second.weight.data.mul_(0.1)

    def forward(self, features: Tensor) -> Tensor:
        update: Tensor = self.second(functional.relu(self.first(features)))
        return features + update
