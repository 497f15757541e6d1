import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyafw import App, Context, Join, Limits, actor
from asyafw.app import load_app
from asyafw.blobs import Blobs
from asyafw.envelope import JSON, MSGPACK
from asyafw.exceptions import (
    AppCheckError,
    ConfigurationError,
    InvalidName,
    TargetError,
    UnknownActor,
    UnknownScheme,
)
from asyafw.memory import MemoryTransport
from asyafw.middleware import Handler
from asyafw.telemetry import Metrics
from asyafw.testing import running


@actor
async def enhance(photo: str) -> str:
    return f"{photo}, enhanced"


@actor
async def judge(photo: str, ctx: Context) -> str:
    return f"{photo}, judged by {ctx.state}"


@actor
async def tile(photo: str) -> AsyncIterator[str]:
    yield photo


@actor(join=Join(timeout_s=5))
async def merge(tiles: list[str]) -> str:
    return "".join(tiles)


class TestMaking:
    def test_an_app_knows_its_actors_and_flows_by_name(self) -> None:
        app = App(actors=[enhance, judge], flows={"photos": ["enhance", "judge"]})

        assert app.actors == {"enhance": enhance, "judge": judge}
        assert app.flows == {"photos": ("enhance", "judge")}
        assert app.limits == Limits()

    def test_an_app_may_have_no_flows(self) -> None:
        assert App([enhance]).flows == {}

    def test_limits_can_be_set(self) -> None:
        assert App([enhance], limits=Limits(hops=9)).limits.hops == 9

    def test_a_name_that_is_used_twice_is_refused_with_both_places(self) -> None:
        @actor(name="enhance")
        async def sharpen(photo: str) -> str:
            return photo

        with pytest.raises(ConfigurationError) as raised:
            App([enhance, judge, sharpen])

        local = "TestMaking.test_a_name_that_is_used_twice_is_refused_with_both_places.<locals>"
        assert str(raised.value) == (
            f"two actors are called 'enhance': {__name__}.enhance and {__name__}.{local}.sharpen; "
            "give one another name by @actor(name=...)"
        )

    def test_places_of_instances_are_told_by_what_they_are(self) -> None:
        class Model:
            async def __call__(self, photo: str) -> str:
                return photo

            def __repr__(self) -> str:
                return "a model"

        with pytest.raises(ConfigurationError, match=r"\.a model and .*\.a model; give one"):
            App([actor(Model()), actor(Model())])

    def test_what_is_no_actor_is_refused(self) -> None:
        undecorated: Any = enhance.handler

        with pytest.raises(ConfigurationError, match=r"takes what @actor gives, not <function enh"):
            App([undecorated])

    def test_an_unknown_option_is_refused(self) -> None:
        options: Any = {"middlewares": [], "blob": "file:///tmp"}

        with pytest.raises(ConfigurationError, match="App has no option blob, middlewares"):
            App([enhance], **options)

    def test_a_text_in_place_of_a_flows_route_is_refused(self) -> None:
        with pytest.raises(
            ConfigurationError, match=r"flow 'photos' is a list .*not the text 'enh"
        ):
            App([enhance], flows={"photos": "enhance"})

    @pytest.mark.parametrize("name", ["Photos", "", "my_photos", "a.b"])
    def test_names_of_flows_and_remote_actors_are_checked(self, name: str) -> None:
        with pytest.raises(InvalidName):
            App([enhance], flows={name: ["enhance"]})
        with pytest.raises(InvalidName):
            App([enhance], remote=[name])

    def test_a_blob_store_is_a_url_or_a_store(self, tmp_path: Path) -> None:
        url = tmp_path.as_uri()
        store = Blobs(url)

        by_url = App([enhance], blobs=url).connect("memory://app-blobs").catalogue.blobs
        itself = App([enhance], blobs=store).connect("memory://app-blobs").catalogue.blobs

        assert isinstance(by_url, Blobs)
        assert itself is store

    def test_a_blob_store_that_is_none_is_refused_at_once(self) -> None:
        with pytest.raises(ConfigurationError):
            App([enhance], blobs="nonsense")


class TestChecking:
    def test_actors_that_fit_pass(self) -> None:
        app = App([enhance, judge], flows={"photos": ["enhance", "judge"]})

        app.check()
        app.check()

    def test_every_problem_is_told(self) -> None:
        app = App([enhance], flows={"photos": ["enhance", "judge"], "films": ["cut"]})

        with pytest.raises(AppCheckError) as raised:
            app.check()

        assert len(raised.value.problems) == 2
        assert "flow 'photos': the app has no actor 'judge'" in raised.value.problems[0]

    def test_actors_of_other_apps_pass(self) -> None:
        App([enhance], flows={"photos": ["enhance", "judge"]}, remote=["judge"]).check()

    def test_no_worker_serves_what_does_not_fit(self) -> None:
        app = App([enhance], flows={"photos": ["enhance", "judge"]})

        with pytest.raises(AppCheckError):
            app.worker("memory://app-check")


class TestConnecting:
    def test_a_client_knows_what_the_app_does(self) -> None:
        app = App([enhance], {"photos": ["enhance"]}, remote=["judge"], limits=Limits(hops=9))

        catalogue = app.connect("memory://app").catalogue

        assert (catalogue.flows, catalogue.actors) == ({"photos": ("enhance",)}, app.actors)
        assert catalogue.known == frozenset({"enhance", "judge"})
        assert catalogue.limits.hops == 9
        assert (catalogue.blobs, catalogue.codec) == (None, MSGPACK)

    def test_the_codec_is_an_option_of_the_url(self) -> None:
        assert App([enhance]).connect("memory://app?codec=json").catalogue.codec is JSON

    def test_a_transport_will_do_for_a_url(self) -> None:
        transport = MemoryTransport()

        assert App([enhance]).connect(transport).transport is transport

    def test_an_unknown_scheme_is_refused(self) -> None:
        with pytest.raises(UnknownScheme, match="'carrier-pigeon'"):
            App([enhance]).connect("carrier-pigeon://roof")
        with pytest.raises(UnknownScheme, match="'carrier-pigeon'"):
            App([enhance]).worker("carrier-pigeon://roof")


class TestServing:
    def test_a_worker_serves_all_actors_or_those_that_are_named(self) -> None:
        app = App([enhance, judge])

        assert app.worker("memory://app").actors == app.actors
        assert app.worker("memory://app", actors=["judge"]).actors == {"judge": judge}

    def test_an_unknown_actor_cannot_be_served(self) -> None:
        with pytest.raises(
            UnknownActor, match="the app has no actor 'polish', 'admire'; it has enhance, judge"
        ):
            App([judge, enhance]).worker("memory://app", actors=["polish", "judge", "admire"])

    def test_a_worker_counts_where_it_is_told_to(self) -> None:
        metrics = Metrics()

        assert App([enhance]).worker("memory://app", metrics=metrics).metrics is metrics

    async def test_what_an_app_is_given_reaches_its_handlers(self) -> None:
        calls: list[str] = []

        @asynccontextmanager
        async def lifespan() -> AsyncGenerator[str]:
            calls.append("opened")
            yield "the model"
            calls.append("closed")

        async def noting(payload: Any, ctx: Context, call_next: Handler) -> Any:
            calls.append(f"middleware of {ctx.route.curr}")
            return await call_next(payload, ctx)

        app = App([judge], {"photos": ["judge"]}, lifespan=lifespan, middleware=[noting])

        async with running(app) as test:
            job = await test.client.submit("photos", "cat.png")
            result = await job.result(5)

        assert result == "cat.png, judged by the model"
        assert calls == ["opened", "middleware of judge", "closed"]

    async def test_an_app_knows_its_fan_outs_and_joins(self) -> None:
        app = App([tile, enhance, merge])

        async with running(app) as test:
            job = await test.client.submit(["tile", "enhance", "merge"], "cat.png")
            result = await job.result(5)

        assert result == "cat.png, enhanced"

    @pytest.mark.parametrize(("events", "hops"), [("hops", ["hop"]), ("jobs", [])])
    async def test_hops_are_told_unless_the_app_says_otherwise(
        self, events: Any, hops: list[str]
    ) -> None:
        app = App([enhance], events=events)

        async with running(app) as test:
            job = await test.client.submit(["enhance", "enhance"], "cat.png")
            kinds = [event.kind async for event in job.events()]

        assert kinds == ["accepted", *hops, "succeeded"]

    async def test_each_message_is_bound_by_the_limits_of_the_app(self) -> None:
        app = App([enhance], limits=Limits(hops=1))

        async with running(app) as test:
            job = await test.client.submit(["enhance"] * 3, "cat.png")
            end = [event async for event in job.events()][-1]

        assert end.error is not None
        assert end.error.type == "LimitExceeded"


APP = App([enhance, judge], {"photos": ["enhance", "judge"]})


class TestLoading:
    @pytest.fixture
    def module(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """A module called "pipeline", which is empty."""
        module = ModuleType("pipeline")
        monkeypatch.setitem(sys.modules, "pipeline", module)
        return module

    @pytest.mark.parametrize("target", ["pipeline:photos", "pipeline"])
    def test_an_app_is_named_or_the_only_one(self, module: ModuleType, target: str) -> None:
        module.__dict__.update(photos=APP, again=APP, enhance=enhance)

        assert load_app(target) is APP

    def test_among_several_the_one_called_app_is_meant(self, module: ModuleType) -> None:
        module.__dict__.update(other=App([judge]), app=APP)

        assert load_app("pipeline") is APP

    def test_of_several_one_is_to_be_named(self, module: ModuleType) -> None:
        module.__dict__.update(photos=APP, films=App([judge]), app="not yet")

        with pytest.raises(
            TargetError, match="several apps; name one: pipeline:photos or pipeline:films"
        ):
            load_app("pipeline")

    def test_actors_alone_become_an_app_without_flows(self, module: ModuleType) -> None:
        module.__dict__.update(enhance=enhance, judge=judge)

        app = load_app("pipeline")

        assert (app.actors, app.flows) == (APP.actors, {})

    def test_what_is_named_is_an_app(self, module: ModuleType) -> None:
        module.__dict__.update(photos=enhance)

        with pytest.raises(TargetError, match=r"'pipeline:photos' is .*, not App"):
            load_app("pipeline:photos")

    @pytest.mark.parametrize(
        ("names", "contents"),
        [([], "and nothing else"), (["cats", "dogs"], "only cats, dogs: decorate functions")],
    )
    def test_a_module_without_any_actor_is_refused(
        self, module: ModuleType, names: list[str], contents: str
    ) -> None:
        module.__dict__.update(dict.fromkeys(names, 5), _hidden=5, sys=sys)

        with pytest.raises(TargetError, match=f"neither an App nor an actor, {contents}"):
            load_app("pipeline")


def test_an_unknown_option_of_a_worker_is_refused() -> None:
    options: Any = {"actor": ["enhance"]}

    with pytest.raises(ConfigurationError):
        App([enhance]).worker(MemoryTransport(), **options)


def test_events_are_hops_or_jobs() -> None:
    options: Any = {"events": "job"}

    with pytest.raises(ConfigurationError):
        App([enhance], **options)
