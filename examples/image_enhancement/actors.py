"""The actors: each takes a `Work`, does its part, and hands it on.

A photo in the making is a file in a folder of its own below the output folder, for it is too large
to travel. Every step writes a new file, so that a step which runs again finds what it needs.
"""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, Self

from anyio import to_thread
from msgspec import Struct, json
from msgspec.structs import replace

from asyafw import Context, actor
from asyafw.model import Model
from examples.image_enhancement import images, models, picture
from examples.image_enhancement.images import Photo
from examples.image_enhancement.measures import Fault, Measures, faults, measure
from examples.image_enhancement.working import read, write

__all__ = ["ACTORS", "Order", "Result", "Work"]

_ROUNDS = 3
_REMEDY: dict[Fault, models.Name] = {"dark": "relight", "noisy": "denoise", "small": "upscale"}


class Order(Struct, frozen=True):
    """A photo to enhance: a path, ``file://`` or ``https://``, and the folder for what comes of it."""

    uri: str
    out: str = "out"


class Work(Struct, frozen=True):
    """A photo in the making.

    `image` is the file of its present state, `best` of the state that the last round began with.
    `steps` were done so far; those that made the photo worse are in `undone`.
    """

    uri: str
    out: str
    original: str
    image: str
    best: str
    measures: Measures | None = None
    before: Measures | None = None
    steps: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()
    round: int = 0


class Result(Struct, frozen=True):
    """What became of a photo: the files written, and the measures before and after."""

    uri: str
    photo: str
    comparison: str
    report: str
    steps: tuple[str, ...]
    undone: tuple[str, ...]
    before: Measures
    after: Measures


@actor(concurrency=2, timeout_s=120)
def load(order: Order, ctx: Context) -> Work:
    """Fetch and decode the photo; a file that is broken or enormous is rejected."""
    photo = images.load(order.uri)
    path = str(Path(order.out, ".work", ctx.job, "0.npz"))
    write(photo, path)
    return Work(order.uri, order.out, original=path, image=path, best=path)


@actor(concurrency=2, timeout_s=120)
def assess(work: Work) -> Work:
    """Measure exposure, noise, sharpness and size."""
    measures = measure(read(work.image).pixels)
    return replace(work, measures=measures, before=work.before or measures)


@actor(may_route_to=["relight", "denoise", "upscale", "judge", "publish"])
async def plan(work: Work, ctx: Context) -> Work:
    """Write the rest of the route: a remedy for each fault that has not been treated, and a judge."""
    remedies = _remedies(work)
    if remedies:
        ctx.route.replace(*remedies, "judge")
    else:
        ctx.route.replace("publish")
    return replace(work, best=work.image, round=work.round + 1)


class _Enhancer:
    """Passes the photo through a model, which is loaded once for each worker."""

    name: ClassVar[models.Name]
    enhance: ClassVar[Callable[[Model, Photo], Awaitable[Photo]]]

    async def __aenter__(self) -> Self:
        self._model = models.in_process(self.name)
        await self._model.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._model.__aexit__(*exc_info)

    async def __call__(self, work: Work) -> Work:
        photo = await to_thread.run_sync(read, work.image)
        enhanced = await type(self).enhance(self._model, photo)
        path = str(Path(work.image).with_name(f"{len(work.steps) + 1}.npz"))
        await to_thread.run_sync(write, enhanced, path)
        return replace(work, image=path, steps=(*work.steps, self.name))


@actor(name="relight", concurrency=2, timeout_s=300)
class Relight(_Enhancer):
    """Brighten a dark photo."""

    name = "relight"
    enhance = models.relight


@actor(name="denoise", concurrency=2, timeout_s=300)
class Denoise(_Enhancer):
    """Take noise away."""

    name = "denoise"
    enhance = models.denoise


@actor(name="upscale", concurrency=2, timeout_s=300)
class Upscale(_Enhancer):
    """Double width and height."""

    name = "upscale"
    enhance = models.upscale


@actor(concurrency=2, timeout_s=120, may_route_to=["plan", "publish"])
def judge(work: Work, ctx: Context) -> Work:
    """Compare with the state before the round: keep what is better, and send it round again if need be."""
    after = measure(read(work.image).pixels)
    assert work.measures is not None, "it was assessed"
    if after.score <= work.measures.score:
        gone = work.steps[len(work.steps) - _steps_of_round(work) :]
        ctx.route.replace("publish")
        return replace(work, image=work.best, undone=(*work.undone, *gone))
    judged = replace(work, measures=after)
    again = work.round < _ROUNDS and _remedies(judged)
    ctx.route.replace("plan" if again else "publish")
    return judged


@actor(concurrency=2, timeout_s=120)
def publish(work: Work) -> Result:
    """Write the photo, a picture of before and after, and a report."""
    ...


ACTORS = (load, assess, plan, Relight, Denoise, Upscale, judge, publish)


def _remedies(work: Work) -> list[models.Name]:
    """What helps against the photo's faults and was not tried yet."""
    assert work.measures is not None, "it was assessed"
    wanted = [_REMEDY[fault] for fault in faults(work.measures)]
    return [name for name in wanted if name not in work.steps]
