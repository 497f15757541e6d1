"""Train the networks: ``python -m examples.image_enhancement.train --photos FOLDER``.

The same photos, versions and machine give the same weights.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
import torch
from msgspec import Struct
from numpy.random import Generator
from torch import Tensor, nn

from examples.image_enhancement.images import Pixels
from examples.image_enhancement.models import Name
from examples.image_enhancement.networks import NETWORKS, Relight
from examples.image_enhancement.pairs import (
    Pair,
    denoise_pair,
    details,
    relight_pair,
    scenes,
    upscale_pair,
)

__all__ = ["RECIPES", "MakePair", "Recipe", "train"]

MakePair: TypeAlias = Callable[[Sequence[Pixels], Generator], Pair]
Loss: TypeAlias = Callable[[nn.Module, list[Tensor], Tensor], Tensor]


class Recipe(Struct, frozen=True):
    """How a network is trained; half the precision is enough for a convolution's products."""

    photos: Callable[[Path], list[Pixels]]
    pair: MakePair
    loss: Loss
    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    half_precision: bool = True
    seed: int = 1


def mean_error(network: nn.Module, given: list[Tensor], wanted: Tensor) -> Tensor:
    """Compare the result with what is wanted, by the absolute difference."""
    error: Tensor = (network(*given) - wanted).abs().mean()
    return error


def relight_error(network: nn.Module, given: list[Tensor], wanted: Tensor) -> Tensor:
    """As `mean_error`, and let neighbouring gains differ as little as possible."""
    assert isinstance(network, Relight)
    image, thumbnail, window = given
    white, grid = network.decide(thumbnail)
    steps = [grid.diff(dim=dim).square().mean() for dim in (2, 3, 4)]
    error = (network.brighten(image, white, grid, window) - wanted).abs().mean()
    return error + 0.2 * sum(steps, torch.zeros(()))


RECIPES: dict[Name, Recipe] = {
    "relight": Recipe(
        scenes, relight_pair, relight_error, 1200, learning_rate=2e-3, half_precision=False
    ),
    "denoise": Recipe(details, denoise_pair, mean_error, 4000, learning_rate=1.5e-3),
    "upscale": Recipe(details, upscale_pair, mean_error, 2000),
}


def train(name: Name, photos: Sequence[Pixels], recipe: Recipe) -> nn.Module:
    """Train a network from nothing."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    network = NETWORKS[name]().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for step in range(recipe.steps):
        given, wanted = _batch([recipe.pair(photos, random) for _ in range(recipe.batch)])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half_precision):
            loss = recipe.loss(network, given, wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        nn.utils.clip_grad_norm_(network.parameters(), 1)
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            print(f"{name}: step {step + 1} of {recipe.steps}, loss {loss.item():.4f}", flush=True)
    return network.eval()


def save(network: nn.Module, path: Path) -> None:
    """Keep the weights in half precision: half the size, and no difference to be measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    torch.save(weights, path)


def _batch(pairs: Sequence[Pair]) -> tuple[list[Tensor], Tensor]:
    given = [_tensor(arrays) for arrays in zip(*(pair.given for pair in pairs), strict=True)]
    return given, _tensor([pair.wanted for pair in pairs])


def _tensor(arrays: Sequence[Pixels]) -> Tensor:
    stacked = np.stack(arrays)
    images = np.moveaxis(stacked, -1, 1) if stacked.ndim == 4 else stacked
    return torch.from_numpy(np.ascontiguousarray(images))


def main() -> None:
    """Train the networks, or those that are named."""
    parser = argparse.ArgumentParser(description="Train the networks of this example.")
    parser.add_argument("--photos", type=Path, required=True, help="where the photos are")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("weights"))
    parser.add_argument("--only", action="append", choices=get_args(Name), help="not all networks")
    arguments = parser.parse_args()
    for name in arguments.only or get_args(Name):
        began = time.perf_counter()
        recipe = RECIPES[name]
        save(train(name, recipe.photos(arguments.photos), recipe), arguments.out / f"{name}.pt")
        print(f"{name}: took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
