"""The actors: each takes a `Work`, does its part, and hands it on.

A photo in the making is a file in a folder of its own below the output folder, for it is too large
to travel. Every step writes a new file, so that a step which runs again finds what it needs.
"""

import shutil
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

from anyio import to_thread
from msgspec import Struct, json
from msgspec.structs import replace

from asyafw import Context, Reject, actor
from asyafw.model import Model
from examples.image_enhancement import images, models
from examples.image_enhancement.images import Photo
from examples.image_enhancement.measures import Fault, Measures, faults, measure
from examples.image_enhancement.picture import compare
from examples.image_enhancement.working import read, write

__all__ = ["ACTORS", "Order", "Result", "Work"]

_REMEDY: dict[Fault, models.Name] = {"dark": "relight", "noisy": "denoise", "small": "upscale"}


class Order(Struct, frozen=True):
    """A photo to enhance, a path, ``file://`` or ``https://``, and the folder for what is made."""

    uri: str
    out: str = "out"


class Work(Struct, frozen=True):
    """A photo in the making.

    `image` is the file of its present state, `best` that of the state in which the round began,
    after `treated` of the `steps`. Those of a round that made the photo worse are in `undone`.
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
    treated: int = 0


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
    """Write the rest of the route: a remedy for each fault not treated yet, and a judge."""
    remedies = _remedies(work)
    if remedies:
        ctx.route.replace(*remedies, "judge")
    else:
        ctx.route.replace("publish")
    return replace(work, best=work.image, treated=len(work.steps))


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
    """Compare with the state before the round, and send the photo round again if something is left.

    A round that made it worse is undone.
    """
    after, before = measure(read(work.image).pixels), _known(work.measures)
    if after.score <= before.score:
        ctx.route.replace("publish")
        undone = work.steps[work.treated :]
        return replace(work, image=work.best, undone=(*work.undone, *undone))
    better = replace(work, measures=after)
    ctx.route.replace("plan" if _remedies(better) else "publish")
    return better


@actor(concurrency=2, timeout_s=120)
def publish(work: Work) -> Result:
    """Write the photo, a picture of before and after, and a report; remove the files between."""
    uri_name, out = Path(urlsplit(work.uri).path), Path(work.out)
    stem = f"{uri_name.stem or 'photo'}-{sha256(work.uri.encode()).hexdigest()[:6]}"
    suffix = ".png" if uri_name.suffix.lower() in (".png", ".tif", ".tiff") else ".jpg"
    result = Result(
        uri=work.uri,
        photo=str(out / f"{stem}{suffix}"),
        comparison=str(out / f"{stem}.comparison.jpg"),
        report=str(out / f"{stem}.json"),
        steps=work.steps,
        undone=work.undone,
        before=_known(work.before),
        after=_known(work.measures),
    )
    original, photo = read(work.original), read(work.image)
    images.save(photo, Path(result.photo))
    picture = compare(original, photo, result.before, result.after)
    images.save(picture, Path(result.comparison))
    Path(result.report).write_bytes(json.format(json.encode(result)) + b"\n")
    shutil.rmtree(Path(work.original).parent, ignore_errors=True)
    return result


ACTORS = (load, assess, plan, Relight, Denoise, Upscale, judge, publish)


def _remedies(work: Work) -> list[models.Name]:
    """What helps against the photo's faults and was not tried yet."""
    wanted = [_REMEDY[fault] for fault in faults(_known(work.measures))]
    return [name for name in wanted if name not in work.steps]


def _known(measures: Measures | None) -> Measures:
    if measures is None:
        raise Reject("the photo was not assessed: the route leads through `assess` first")
    return measures
