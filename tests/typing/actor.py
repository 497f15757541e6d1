"""What type checkers see of an actor: its handler's own parameters and result.

mypy and pyright read this file; nothing runs it.
A `type: ignore` here states an error that mypy must find, and complains about where there is none.
"""

from collections.abc import AsyncIterator, Callable
from typing import assert_type

from msgspec import Struct

from asyafw._actor import Actor, Batch, Join, actor
from asyafw.context import Context
from asyafw.retry import RetryPolicy


class Photo(Struct):
    uri: str


@actor
async def enhance(photo: Photo) -> Photo:
    return photo


@actor(
    name="judge-photo",
    concurrency=8,
    timeout_s=None,
    retry=RetryPolicy(max_attempts=5),
    on_exhausted=["apologise"],
    may_route_to=("enhance",),
)
async def judge(photo: Photo, ctx: Context, *, strict: bool = False) -> float:
    raise NotImplementedError(photo, ctx, strict)


@actor(executor="process")
def blur(photo: Photo) -> Photo:
    return photo


@actor
async def tiles(photo: Photo) -> AsyncIterator[Photo]:
    yield photo


@actor(batch=Batch(max_size=8))
async def score(photos: list[Photo]) -> list[float | Exception]:
    return [float(len(photo.uri)) for photo in photos]


@actor(join=Join(partial="pass"))
async def collage(tiles: list[Photo | None]) -> Photo:
    raise NotImplementedError(tiles)


class Model:
    def __init__(self, path: str = "") -> None:
        self.path = path

    async def __call__(self, photo: Photo) -> float:
        return float(len(photo.uri))


async def calls(photo: Photo, ctx: Context) -> None:
    assert_type(await enhance(photo), Photo)
    assert_type(await enhance(photo=photo), Photo)
    assert_type(await judge(photo, ctx, strict=True), float)
    assert_type(blur(photo), Photo)
    assert_type([tile async for tile in tiles(photo)], list[Photo])
    assert_type(await score([photo]), list[float | Exception])
    assert_type(await collage([photo, None]), Photo)
    assert_type(actor(Model)(path="large"), Model)
    assert_type(await actor(Model())(photo), float)
    assert_type(await actor(concurrency=2)(Model())(photo), float)


def attributes() -> None:
    assert_type(enhance.name, str)
    assert_type(judge.concurrency, int)
    assert_type(judge.timeout_s, float | None)
    assert_type(score.batch, Batch | None)


def listed() -> list[Actor[..., object]]:
    return [enhance, judge, blur, tiles, score, collage, actor(Model), actor(Model())]


def handlers() -> list[Callable[[Photo], object]]:
    return [enhance, blur, tiles]


def mistakes(photo: Photo) -> None:
    blur("s3://photos/1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    blur()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    blur(photo, size=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    actor("judge")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    actor(workers=8)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    actor(concurrency="8")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    actor(executor="fork")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
