from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from PIL import Image

from examples.image_enhancement.degrade import add_noise, expose, halve, quantise
from examples.image_enhancement.evaluate import held_out
from examples.image_enhancement.images import Pixels, resize
from examples.image_enhancement.measures import Measures, faults, measure
from examples.image_enhancement.noise import noise_map, noise_sigma, smooth

PHOTOS = held_out()
GOOD = [name for name in PHOTOS if name != "rocket"]  # which was taken at dusk


@pytest.fixture(params=GOOD)
def photo(request: pytest.FixtureRequest) -> Pixels:
    return PHOTOS[request.param]


def noisy(photo: Pixels, levels: float) -> Pixels:
    return quantise(add_noise(photo, levels / 255, np.random.default_rng(1)))


def darker(photo: Pixels, stops: float) -> Pixels:
    return quantise(expose(photo, -stops, np.random.default_rng(1)))


def blurred(photo: Pixels) -> Pixels:
    return smooth(photo, [1 / 5] * 5)


def doubled(photo: Pixels) -> Pixels:
    return resize(photo, 2 * photo.shape[1], 2 * photo.shape[0], Image.Resampling.BICUBIC)


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_exposure_tells_how_many_stops_are_missing(photo: Pixels, stops: int) -> None:
    missing = measure(photo).exposure - measure(darker(photo, stops)).exposure

    assert missing == pytest.approx(stops, rel=0.2)


@pytest.mark.parametrize("levels", [3, 5, 10, 20, 40])
def test_noise_is_found_in_the_right_strength(photo: Pixels, levels: float) -> None:
    assert measure(noisy(photo, levels)).noise == pytest.approx(levels, rel=0.1, abs=0.5)


@pytest.mark.parametrize("photo", PHOTOS, indirect=True)
def test_detail_is_not_taken_for_noise(photo: Pixels) -> None:
    assert measure(photo).noise < 1.5


def test_noise_is_found_where_it_is(photo: Pixels) -> None:
    sigma: Pixels = np.where(photo < 0.4, 12 / 255, 5 / 255).astype(np.float32)
    noise = sigma * np.random.default_rng(1).standard_normal(photo.shape, np.float32)

    found = 255 * noise_map(np.clip(photo + noise, 0, 1))

    dark, light = (photo > 0.1) & (photo < 0.3), photo > 0.5
    assert found.shape == photo.shape
    assert found.dtype == np.float32
    assert np.median(found[dark]) == pytest.approx(12, rel=0.2)
    assert np.median(found[light]) == pytest.approx(5, rel=0.2)


def test_sharpness_falls_with_blur(photo: Pixels) -> None:
    assert measure(blurred(photo)).sharpness < 0.65 * measure(photo).sharpness
    assert measure(doubled(photo)).sharpness < 0.65 * measure(photo).sharpness


def test_noise_does_not_pass_for_sharpness(photo: Pixels) -> None:
    sharp, soft = measure(photo), measure(noisy(blurred(photo), 10))

    assert measure(noisy(photo, 10)).sharpness == pytest.approx(sharp.sharpness, rel=0.2)
    assert soft.sharpness < 0.8 * sharp.sharpness


def test_light_does_not_pass_for_sharpness(photo: Pixels) -> None:
    assert measure(darker(photo, 2)).sharpness == pytest.approx(measure(photo).sharpness, rel=0.1)


@pytest.mark.parametrize(
    "worse",
    [
        lambda photo: darker(photo, 2.5),
        lambda photo: darker(photo, 4),
        lambda photo: quantise(expose(photo, 3, np.random.default_rng(1))),
        lambda photo: noisy(photo, 8),
        lambda photo: noisy(photo, 25),
        blurred,
        halve,
    ],
    ids=["dark", "darker", "blown out", "noisy", "noisier", "blurred", "small"],
)
def test_the_score_falls_when_a_photo_is_made_worse(
    photo: Pixels, worse: Callable[[Pixels], Pixels]
) -> None:
    assert measure(worse(photo)).score < measure(photo).score - 0.02


def test_the_score_falls_the_more_the_worse(photo: Pixels) -> None:
    for scores in (
        [measure(darker(photo, stops)).score for stops in (0, 2, 3, 4)],
        [measure(noisy(photo, levels)).score for levels in (0, 5, 10, 20, 40)],
    ):
        assert scores == sorted(scores, reverse=True)


def test_faults_are_named_in_the_order_of_their_repair(photo: Pixels) -> None:
    small_dark_noisy = noisy(darker(halve(photo), 3), 12)

    assert faults(measure(small_dark_noisy)) == ("dark", "noisy", "small")
    assert not {"dark", "noisy"} & {*faults(measure(photo))}


def test_a_photo_with_nothing_in_it_can_be_measured() -> None:
    for value in (0, 0.5, 1):
        for size in ((1, 1), (5, 200), (64, 64)):
            measures = measure(np.full((*size, 3), value, np.float32))
            assert measures.noise == 0
            assert measures.sharpness == pytest.approx(1, abs=0.01)
            assert 0 <= measures.score < 0.8


def test_noise_makes_even_a_wall_worse() -> None:
    wall = np.full((200, 200, 3), 0.5, np.float32)

    assert measure(noisy(wall, 8)).score < measure(wall).score - 0.02


def test_measures_travel_as_json(photo: Pixels) -> None:
    measures = measure(photo)

    assert msgspec.json.decode(msgspec.json.encode(measures), type=Measures) == measures


def test_the_same_photo_has_the_same_measures(photo: Pixels) -> None:
    assert measure(photo) == measure(photo.copy())


def test_noise_of_one_plane_is_that_of_three() -> None:
    grey = np.full((200, 200), 0.5, np.float32)
    plane = grey + np.random.default_rng(1).standard_normal(grey.shape, np.float32) * 0.05

    assert noise_sigma(plane) == pytest.approx(0.05, rel=0.05)
    assert noise_sigma(np.repeat(plane[..., None], 3, -1)) == pytest.approx(0.05, rel=0.05)
