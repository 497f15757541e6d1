from typing import get_args

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from examples.image_enhancement.evaluate import held_out
from examples.image_enhancement.images import Pixels
from examples.image_enhancement.models import Name
from examples.image_enhancement.pairs import denoise_pair, relight_pair, upscale_pair
from examples.image_enhancement.train import RECIPES, MakePair, train

PHOTOS = list(held_out().values())


def few(name: Name, **changes: int) -> list[Pixels]:
    """Train for a moment and give the weights."""
    recipe = replace(RECIPES[name], **{"steps": 2, "batch": 2, **changes})
    return [value.numpy() for value in train(name, PHOTOS, recipe).state_dict().values()]


@pytest.mark.parametrize("name", get_args(Name))
def test_training_is_reproducible(name: Name) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, same, other = few(name), few(name), few(name, seed=2)
    finally:
        torch.set_num_threads(threads)

    assert all(np.array_equal(x, y) for x, y in zip(first, same, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(first, other, strict=True))


@pytest.mark.parametrize("make", [relight_pair, denoise_pair, upscale_pair])
def test_pairs_are_what_the_networks_take(make: MakePair) -> None:
    random = np.random.default_rng(1)

    for _ in range(20):
        pair = make(PHOTOS, random)
        assert all(array.dtype == np.float32 for array in (*pair.given, pair.wanted))
        assert 0 <= pair.given[0].min() <= pair.given[0].max() <= 1
