import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from msgspec import Raw
from msgspec.structs import replace
from PIL import Image

from asyafw import Client, Context, JobFailed
from asyafw.envelope import MSGPACK, Envelope, Route
from examples.image_enhancement import app
from examples.image_enhancement.actors import Order, Result, Work, judge, plan
from examples.image_enhancement.images import Photo
from examples.image_enhancement.measures import measure
from examples.image_enhancement.working import read, write

PHOTOS = sorted(Path(__file__).with_name("photos").glob("*.jpg")) + sorted(
    Path(__file__).with_name("photos").glob("*.png")
)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with app.worker("memory://photos"), app.connect("memory://photos") as client:
        yield client


def test_the_actors_fit_together() -> None:
    app.check()


async def test_each_photo_of_the_example_gets_better(client: Client, tmp_path: Path) -> None:
    jobs = [await client.submit("enhance", Order(str(photo), str(tmp_path))) for photo in PHOTOS]

    results: list[Result] = [await job.result(timeout_s=120) for job in jobs]

    assert len(results) >= 3
    for result in results:
        assert result.after.score > result.before.score, result.uri
        assert result.steps
        for written in (result.photo, result.comparison):
            with Image.open(written) as image:
                image.load()
        assert json.loads(Path(result.report).read_text())["after"]["score"] == result.after.score
    assert list((tmp_path / ".work").iterdir()) == []


async def test_a_photo_without_faults_is_published_as_it_is(client: Client, tmp_path: Path) -> None:
    from skimage import data

    Image.fromarray(data.astronaut()).resize((768, 768)).save(tmp_path / "good.png")  # type: ignore[no-untyped-call]

    job = await client.submit("enhance", Order(str(tmp_path / "good.png"), str(tmp_path / "out")))
    result: Result = await job.result(timeout_s=120)

    assert result.steps == ()
    assert result.before == result.after


async def test_a_broken_photo_fails_alone_and_says_why(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(PHOTOS[0].read_bytes()[:1000])

    bad = await client.submit("enhance", Order(str(broken), str(tmp_path)))
    good = await client.submit("enhance", Order(str(PHOTOS[0]), str(tmp_path)))

    with pytest.raises(JobFailed, match=r"Reject in load: .*broken\.jpg"):
        await bad.result(timeout_s=60)
    assert await good.result(timeout_s=120)


async def test_the_plan_names_a_remedy_for_each_fault_and_a_judge(tmp_path: Path) -> None:
    dark_and_small = np.full((40, 40, 3), 0.02, np.float32)
    work, ctx = _work(tmp_path, dark_and_small), _context("plan")

    await plan(work, ctx)

    assert ctx.route.next == ("relight", "upscale", "judge")


def test_a_round_that_made_the_photo_worse_is_undone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
    work, ctx = _work(tmp_path, np.full((64, 64, 3), 0.5, np.float32)), _context("judge")
    write(Photo(noise), str(tmp_path / "1.npz"))

    judged = judge(_after(work, tmp_path / "1.npz", "denoise"), ctx)

    assert judged.image == work.image
    assert judged.undone == ("denoise",)
    assert ctx.route.next == ("publish",)


def test_a_working_file_keeps_pixels_alpha_and_greyness(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    photo = Photo(
        random.random((5, 7, 3), np.float32), random.random((5, 7), np.float32), grey=True
    )

    write(photo, str(tmp_path / "photo.npz"))
    found = read(str(tmp_path / "photo.npz"))

    assert found.alpha is not None
    assert photo.alpha is not None
    assert np.abs(found.pixels - photo.pixels).max() <= 1 / 65535
    assert np.abs(found.alpha - photo.alpha).max() <= 1 / 65535
    assert found.grey


def test_the_command_prints_a_table_and_fails_if_a_photo_failed(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no photo")
    command = [sys.executable, "-m", "examples.image_enhancement", "--out", str(tmp_path / "out")]

    done = subprocess.run(
        [*command, str(PHOTOS[0]), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 1
    assert PHOTOS[0].stem[:8] in done.stdout
    assert "broken.png" in done.stderr


def _work(folder: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Work:
    path = str(folder / "0.npz")
    write(Photo(pixels), path)
    measures = measure(pixels)
    return Work("photo", str(folder), path, path, path, measures=measures, before=measures)


def _after(work: Work, image: Path, step: str) -> Work:
    return replace(work, image=str(image), steps=(step,))


def _context(actor: str) -> Context:
    envelope = Envelope(id="1", job="1", route=Route(actor), payload=Raw(MSGPACK.null))
    return Context(envelope)
