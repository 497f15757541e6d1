import inspect
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import NoneType
from typing import Any, Self

import pytest
from msgspec import Struct

from asyafw._actor import Actor, Batch, Join, actor
from asyafw.context import Context
from asyafw.exceptions import ConfigurationError, InvalidName
from asyafw.middleware import Handler
from asyafw.retry import RetryPolicy, fixed


class Photo(Struct):
    uri: str


class Face(Struct):
    box: tuple[int, int, int, int]


@actor
async def find_face(photo: Photo) -> Face:
    """Find the face of a photo."""
    return Face((0, 0, len(photo.uri), 1))


@actor(name="blur", executor="process")
def blur_faces(photo: Photo) -> Photo:
    return photo


@actor
async def every_face(photo: Photo, ctx: Context) -> AsyncIterator[Face]:
    del ctx
    yield Face((0, 0, len(photo.uri), 1))


@actor
def tiles(photo: Photo) -> Photo:
    return photo


class Enhance:
    """Enhance photos."""

    async def __call__(self, photo: Photo) -> Photo:
        return photo


enhance = actor(Enhance)


class Model:
    """Counts how often it was entered and left."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.left += 1

    async def __call__(self, photo: Photo) -> Face:
        return Face((0, 0, len(photo.uri), self.entered))


class Pool(Model):
    """Entering it gives something to call in its place."""

    async def __aenter__(self) -> Any:
        await super().__aenter__()
        return find_face


class Quiet(Model):
    """Entering it gives nothing."""

    async def __aenter__(self) -> Any:
        await super().__aenter__()


async def passing(payload: Any, ctx: Context, call_next: Handler) -> Any:
    return await call_next(payload, ctx)


async def handler(photo: Photo) -> Photo:
    return photo


def plain(photo: Photo) -> Photo:
    return photo


def plain_with_context(photo: Photo, ctx: Context) -> Photo:
    del ctx
    return photo


async def batched(photos: list[Photo]) -> list[Face | Exception]:
    return [Face((0, 0, len(photo.uri), 1)) for photo in photos]


async def joined(faces: list[Face | None]) -> Photo:
    return Photo(f"{len(faces)} faces")


@pytest.mark.parametrize(
    ("found", "input_type", "output_type"),
    [
        (find_face, Photo, Face),
        (blur_faces, Photo, Photo),
        (every_face, Photo, Face),
        (tiles, Photo, Photo),
        (enhance, Photo, Photo),
        (actor(name="instance")(Enhance()), Photo, Photo),
        (actor(batch=Batch())(batched), Photo, Face),
        (actor(join=Join())(joined), Face, Photo),
        (actor(name="partial", join=Join(partial="pass"))(joined), Face, Photo),
    ],
    ids=lambda found: found.name if isinstance(found, Actor) else None,
)
def test_types_are_those_of_one_message(
    found: Actor[..., Any], input_type: Any, output_type: Any
) -> None:
    assert found.input_type is input_type
    assert found.output_type is output_type


def test_a_batch_may_give_nothing() -> None:
    @actor(batch=Batch())
    async def store(photos: list[Photo]) -> None:
        del photos

    assert store.input_type is Photo
    assert store.output_type is NoneType


def test_types_of_what_is_not_annotated_are_any() -> None:
    async def anything(payload: Any, /) -> Any:
        return payload

    anything.__annotations__ = {}

    for found in (actor(anything), actor(batch=Batch())(anything), actor(join=Join())(anything)):
        assert found.input_type is Any
        assert found.output_type is Any


@pytest.mark.anyio
async def test_a_decorated_function_is_called_as_if_it_were_not() -> None:
    photo = Photo("s3://photos/1")

    assert await find_face(photo) == Face((0, 0, 13, 1))
    assert await find_face(photo=photo) == Face((0, 0, 13, 1))
    assert blur_faces(photo) is photo


def test_a_decorated_class_makes_instances() -> None:
    assert isinstance(enhance(), Enhance)


def test_an_actor_tells_of_its_function() -> None:
    assert find_face.__doc__ == "Find the face of a photo."
    assert find_face.__name__ == find_face.name == "find-face"
    assert find_face.__module__ == __name__
    assert inspect.unwrap(find_face) is find_face.handler
    assert [*inspect.signature(find_face).parameters] == ["photo"]
    assert repr(find_face) == "<actor find-face>"


def named(name: str) -> Callable[[Photo], Photo]:
    def function(photo: Photo) -> Photo:
        return photo

    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("name", "actor_name"),
    [
        ("enhance", "enhance"),
        ("find_face", "find-face"),
        ("_enhance", "enhance"),
        ("__enhance__", "enhance"),
        ("filter_", "filter"),
        ("FindFace", "findface"),
        ("step_2", "step-2"),
        ("x" * 63, "x" * 63),
    ],
)
def test_an_actor_has_its_functions_name(name: str, actor_name: str) -> None:
    assert actor(named(name)).name == actor_name


def test_an_instance_has_its_classs_name() -> None:
    assert actor(Model()).name == "model"


def test_a_name_can_be_given() -> None:
    assert blur_faces.name == "blur"


@pytest.mark.parametrize("name", ["<lambda>", "_", "grüße", "x" * 64])
def test_a_function_whose_name_is_no_actors_needs_one(name: str) -> None:
    with pytest.raises(InvalidName, match=r"^@actor\(name=...\) of <function .* is no name"):
        actor(named(name))


@pytest.mark.parametrize("name", ["", "Judge", "a_b", "asyafw.events", 5, ["judge"]])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName, match=r"^@actor\(name=...\) of <function handler"):
        actor(name=name)(handler)


def test_options_have_defaults() -> None:
    found = actor(handler)

    assert found.concurrency == 16
    assert found.timeout_s is None
    assert found.retry == RetryPolicy()
    assert [found.on_exhausted, found.may_route_to, found.middleware] == [(), (), ()]
    assert [found.batch, found.join, found.executor] == [None, None, None]
    assert found.slots == 16


def test_options_are_kept() -> None:
    retry = RetryPolicy(5, fixed(1))

    found = actor(
        concurrency=2,
        timeout_s=30,
        retry=retry,
        on_exhausted=["apologise", "notify"],
        may_route_to=["judge"],
        batch=Batch(8, 0.5),
        middleware=[passing],
    )(batched)

    assert (found.concurrency, found.timeout_s, found.retry) == (2, 30, retry)
    assert found.on_exhausted == ("apologise", "notify")
    assert found.may_route_to == ("judge",)
    assert found.batch == Batch(8, 0.5)
    assert found.middleware == (passing,)


def test_a_worker_has_as_many_messages_in_hand_as_its_batches_hold() -> None:
    assert actor(concurrency=2, batch=Batch(max_size=8))(batched).slots == 16


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_plain_function_may_have_an_executor(executor: Any) -> None:
    assert actor(executor=executor)(plain).executor == executor


def test_a_plain_function_in_a_thread_may_have_the_context() -> None:
    assert actor(executor="thread")(plain_with_context).signature.has_context


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"workers": 8, "timeout": 3}, "@actor has no option timeout, workers; it has name,"),
        ({"concurrency": 0}, "concurrency is at least 1"),
        ({"concurrency": "8"}, "concurrency is of type int, not '8'"),
        ({"timeout_s": 0}, "timeout_s is positive"),
        ({"timeout_s": -1.5}, "timeout_s is positive"),
        ({"timeout_s": math.nan}, "timeout_s is positive"),
        ({"timeout_s": "30s"}, "timeout_s is of type float | int | None, not '30s'"),
        ({"retry": 3}, "retry is of type RetryPolicy, not 3"),
        ({"on_exhausted": "apologise"}, "on_exhausted is a list of names, not 'apologise'"),
        ({"on_exhausted": ["Apologise"]}, "on_exhausted: 'Apologise' is no name"),
        ({"on_exhausted": None}, "on_exhausted is of type Iterable, not None"),
        ({"may_route_to": "judge"}, "may_route_to is a list of names, not 'judge'"),
        ({"may_route_to": [find_face]}, "may_route_to: "),
        ({"may_route_to": [["judge"]]}, "may_route_to: "),
        ({"batch": 16}, "batch is of type "),
        ({"batch": Batch(max_size=0)}, "a batch has a max_size of at least 1"),
        ({"batch": Batch(max_wait_s=-1)}, "a finite max_wait_s"),
        ({"batch": Batch(max_wait_s=math.inf)}, "a finite max_wait_s"),
        ({"batch": Batch()}, "a batch takes list[...], not <class"),
        ({"join": True}, "join is of type "),
        ({"join": Join(timeout_s=0)}, "a join's timeout_s is positive"),
        ({"join": Join(timeout_s=math.inf)}, "a join's timeout_s is positive and at most 1e+09"),
        ({"join": Join(timeout_s=math.nan)}, "a join's timeout_s is positive"),
        ({"join": Join(partial="ignore")}, 'partial is "fail" or "pass"'),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        ({"join": Join()}, "a join takes list[...], not <class"),
        ({"batch": Batch(), "join": Join()}, "batch and join exclude each other"),
        ({"executor": "fork"}, "executor is one of thread, process"),
        ({"executor": "thread"}, "this handler is async"),
        ({"middleware": passing}, "middleware is of type Iterable, not <function passing"),
        ({"middleware": ["tracing"]}, "a middleware is a callable"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_with_their_actor(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        actor(**options)(handler)

    assert str(caught.value).startswith("actor 'handler': ")
    assert problem in str(caught.value)


def test_a_batch_gives_a_list() -> None:
    async def mixed(photos: list[Photo]) -> Face:
        return Face((0, 0, len(photos), 1))

    with pytest.raises(ConfigurationError, match=r"^actor 'mixed': a batch gives list"):
        actor(batch=Batch())(mixed)


def test_a_batch_does_not_yield() -> None:
    async def streamed(photos: list[Photo]) -> AsyncIterator[Photo]:
        for photo in photos:
            yield photo

    with pytest.raises(ConfigurationError, match=r"^actor 'streamed': .* it does not yield"):
        actor(batch=Batch())(streamed)


def test_a_handler_in_another_process_has_no_context() -> None:
    with pytest.raises(ConfigurationError, match=r"^actor 'plain-with-context': .* no context"):
        actor(executor="process")(plain_with_context)


@pytest.mark.parametrize("found", ["judge", 8, {"name": "judge"}])
def test_what_cannot_be_called_is_no_handler(found: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"@actor decorates .* @actor\(name=\.\.\.\)"):
        actor(found)


async def opened(found: Actor[..., Any]) -> tuple[Any, Any]:
    """What an actor gives to be called, and how often that was entered by then."""
    async with AsyncExitStack() as stack:
        inside = await found.open(stack)
        entered = getattr(inside, "entered", None)
    return inside, entered


@pytest.mark.anyio
async def test_a_function_needs_no_opening() -> None:
    assert await opened(find_face) == (find_face.handler, None)


@pytest.mark.anyio
async def test_a_class_is_made_entered_and_left_each_time_it_is_opened() -> None:
    models = actor(Model)

    one, entered_once = await opened(models)
    other, _ = await opened(models)

    assert isinstance(one, Model)
    assert one is not other
    assert (entered_once, one.left, other.left) == (1, 1, 1)


@pytest.mark.anyio
async def test_a_class_without_a_lifetime_is_only_made() -> None:
    found, _ = await opened(enhance)

    assert isinstance(found, Enhance)


@pytest.mark.anyio
async def test_an_instance_is_entered_and_left() -> None:
    model = Model()

    found, _ = await opened(actor(model))

    assert found is model
    assert (model.entered, model.left) == (1, 1)


@pytest.mark.anyio
async def test_what_entering_gives_is_called_if_it_can_be() -> None:
    pool, quiet = Pool(), Quiet()

    assert (await opened(actor(pool)))[0] is find_face
    assert (await opened(actor(quiet)))[0] is quiet
    assert (pool.left, quiet.left) == (1, 1)
