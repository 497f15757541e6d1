import time
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from structlog.testing import capture_logs

from asyafw.context import Context, RouteEditor
from asyafw.envelope import MSGPACK, Envelope, Failure, Route
from asyafw.events import Event
from asyafw.exceptions import UnknownActor
from asyafw.testing import make_context

names = st.lists(st.sampled_from("abcd"), max_size=4).map(tuple)


class TestRouteEditor:
    @given(names, names)
    def test_an_editor_changes_what_is_to_come_and_nothing_else(
        self, rest: tuple[str, ...], given_: tuple[str, ...]
    ) -> None:
        for change, changed in [
            ("prepend", given_ + rest),
            ("append", rest + given_),
            ("replace", given_),
        ]:
            route = RouteEditor(Route("judge", rest, ("enhance",)), set("abcd"))

            getattr(route, change)(*given_)

            assert (route.prev, route.curr, route.next) == (("enhance",), "judge", changed)

    def test_a_route_can_end_here(self) -> None:
        route = RouteEditor(Route("judge", ("publish",), ("enhance",)))

        route.stop()

        assert route.value == Route("judge", (), ("enhance",))

    @pytest.mark.parametrize("change", ["prepend", "append", "replace"])
    def test_a_route_to_an_unknown_actor_is_refused_where_it_is_written(self, change: str) -> None:
        route = RouteEditor(Route("judge", ("publish",)), {"judge", "publish", "enhance"})

        with pytest.raises(UnknownActor) as raised:
            getattr(route, change)("enhance", "polish", "admire")

        assert str(raised.value) == (
            "judge routes to 'polish', 'admire', which the app does not have; "
            "it has enhance, judge, publish"
        )
        assert route.next == ("publish",)

    def test_where_no_actors_are_known_any_will_do(self) -> None:
        route = RouteEditor(Route("judge"))

        route.append("anywhere")

        assert route.next == ("anywhere",)


class TestContext:
    def test_a_context_tells_of_its_message(self) -> None:
        failure = Failure("ValueError", "too dark", "judge")

        ctx = make_context(
            ["judge", "publish"],
            attempt=2,
            state="the model",
            id="m1",
            job="j1",
            hops=3,
            flow="photos",
            deadline_at=1e9,
            headers={"tenant": "acme"},
            failures={1: failure},
            error=failure,
        )

        assert (ctx.id, ctx.job, ctx.hops, ctx.attempt, ctx.flow) == ("m1", "j1", 3, 2, "photos")
        assert (ctx.deadline, ctx.state, ctx.headers) == (1e9, "the model", {"tenant": "acme"})
        assert (ctx.route.prev, ctx.route.curr, ctx.route.next) == ((), "judge", ("publish",))
        assert (ctx.failures, ctx.error) == ({1: failure}, failure)

    def test_a_context_needs_an_envelope_and_nothing_else(self) -> None:
        ctx = Context(Envelope(id="m1", job="j1", route=Route("judge"), payload=Raw(MSGPACK.null)))

        ctx.tell("started")

        assert (ctx.attempt, ctx.state, ctx.deadline, ctx.error) == (1, None, None, None)
        assert (ctx.failures, ctx.headers, ctx.flow) == ({}, {}, None)
        assert ctx.expires_at == inf

    def test_what_nobody_changed_is_as_it_came(self) -> None:
        ctx = make_context(["judge", "publish"], headers={"tenant": "acme"})

        assert ctx.edited_route is ctx.envelope.route
        assert ctx.edited_headers is ctx.envelope.headers

    def test_changes_leave_the_message_as_it_came(self) -> None:
        ctx = make_context(["judge", "publish"], headers={"tenant": "acme"})

        ctx.headers["stage"] = "judged"
        ctx.route.prepend("enhance")

        assert ctx.edited_headers == {"tenant": "acme", "stage": "judged"}
        assert ctx.edited_route == Route("judge", ("enhance", "publish"))
        assert ctx.envelope.headers == {"tenant": "acme"}
        assert ctx.envelope.route == Route("judge", ("publish",))

    def test_one_change_builds_on_the_other(self) -> None:
        ctx = make_context(["judge", "publish"])

        ctx.route.prepend("enhance")
        ctx.route.append("archive")
        ctx.headers["a"] = "1"
        ctx.headers["b"] = "2"

        assert ctx.edited_route.next == ("enhance", "publish", "archive")
        assert ctx.edited_headers == {"a": "1", "b": "2"}

    def test_the_actors_of_the_app_bound_its_routes(self) -> None:
        envelope = make_context(["judge"]).envelope
        ctx = Context(envelope, known={"judge"})

        with pytest.raises(UnknownActor):
            ctx.route.append("publish")

    async def test_progress_is_told(self) -> None:
        told: list[Event] = []
        began = time.time()
        ctx = make_context(
            ["judge"], attempt=2, told=told, id="m1", job="j1", hops=3, flow="photos", enqueued_at=5
        )

        await ctx.progress(0.4, "denoising")
        await ctx.progress()

        full, empty = told
        assert began <= ctx.started_at <= full.at <= time.time()
        assert full == Event(
            kind="progress",
            job="j1",
            id="m1",
            at=full.at,
            flow="photos",
            actor="judge",
            hop=3,
            attempt=2,
            enqueued_at=5,
            started_at=ctx.started_at,
            fraction=0.4,
            message="denoising",
        )
        assert (empty.fraction, empty.message) == (None, None)

    def test_events_go_to_the_log_that_the_message_names(self) -> None:
        logs: list[str | None] = []
        envelope = make_context(reply="replies").envelope
        ctx = Context(envelope, notify=lambda _event, log: logs.append(log))

        ctx.tell("started")

        assert logs == ["replies"]

    def test_log_lines_tell_which_message_they_belong_to(self) -> None:
        ctx = make_context(["judge"], attempt=2, job="j1")

        with capture_logs() as lines:
            ctx.log.info("a dark photo", brightness=0.1)

        assert lines == [
            {
                "event": "a dark photo",
                "brightness": 0.1,
                "job": "j1",
                "actor": "judge",
                "attempt": 2,
                "log_level": "info",
            }
        ]
