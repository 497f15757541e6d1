import logging
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from asyafw import CircuitBreaker, Context, RateLimit, Reject, Retry, retry_after
from asyafw.coordination import Change, CircuitRules, LocalCoordinator, Pace, Permit, Report, Turn
from asyafw.coordination import Wait as TurnWait
from asyafw.exceptions import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    HandlerTimeout,
    JobCancelled,
    PayloadError,
    RateLimited,
    TransportError,
    TransportUnavailable,
)
from asyafw.middleware import Middleware, compose
from asyafw.testing import make_context

NOW = 1_700_000_000.0


class Service:
    """A coordinator whose time a test sets, and messages that meet it."""

    def __init__(self) -> None:
        self.now = NOW
        self.coordinator = LocalCoordinator(lambda: self.now)
        self.ran: list[Any] = []

    def context(self, actor: str = "ask", **fields: Any) -> Context:
        ctx = make_context([actor], **fields)
        ctx.coordinator = self.coordinator
        return ctx

    async def run(
        self,
        *layers: Middleware,
        payload: Any = None,
        ctx: Context | None = None,
        error: BaseException | None = None,
    ) -> Any:
        """Run a handler once; gives its result, or what was raised."""

        async def handler(payload: Any, ctx: Context) -> Any:
            self.ran.append(payload)
            if error is not None:
                raise error
            return "done"

        try:
            return await compose(layers, handler)(payload, ctx or self.context())
        except BaseException as raised:  # noqa: BLE001 — the test looks at it
            return raised

    async def outcomes(self, count: int, *layers: Middleware, **options: Any) -> list[Any]:
        return [await self.run(*layers, **options) for _ in range(count)]


class Away:
    """A coordinator that cannot do what it is asked."""

    def __init__(self, error: TransportError) -> None:
        self.error = error

    async def take_turn(
        self, key: str, pace: Pace, turn: Turn | None = None, within_us: int | None = None
    ) -> TurnWait:
        raise self.error

    async def ask(self, key: str, rules: CircuitRules) -> Permit:
        raise self.error

    async def tell(self, key: str, rules: CircuitRules, report: Report) -> tuple[Change, int]:
        raise self.error


class Untold(LocalCoordinator):
    """A coordinator that answers, and then cannot be told."""

    async def tell(self, key: str, rules: CircuitRules, report: Report) -> tuple[Change, int]:
        raise TransportUnavailable


@pytest.fixture
def service() -> Service:
    return Service()


def waits(outcomes: list[Any]) -> list[float]:
    return [getattr(outcome, "after_s", 0) for outcome in outcomes]


class TestRateLimit:
    async def test_a_message_that_comes_too_early_is_told_when_to_return(
        self, service: Service
    ) -> None:
        outcomes = await service.outcomes(3, RateLimit(20))

        assert outcomes[0] == "done"
        assert waits(outcomes) == [0, 0.05, 0.1]
        assert all(isinstance(each, RateLimited) and not each.counted for each in outcomes[1:])
        assert len(service.ran) == 1

    async def test_it_runs_when_it_returns(self, service: Service) -> None:
        contexts = [service.context() for _ in range(3)]
        limit = RateLimit(20)
        for ctx in contexts:
            await service.run(limit, ctx=ctx)

        service.now += 0.1
        outcomes = [await service.run(limit, ctx=ctx) for ctx in contexts[1:]]

        assert outcomes == ["done", "done"]

    async def test_each_actor_has_a_limit_of_its_own(self, service: Service) -> None:
        limit = RateLimit(1)

        outcomes = [await service.run(limit, ctx=service.context(name)) for name in ("a", "b")]

        assert outcomes == ["done", "done"]

    async def test_all_with_one_key_share_a_limit(self, service: Service) -> None:
        limit = RateLimit(1, key="llm")

        outcomes = [await service.run(limit, ctx=service.context(name)) for name in ("a", "b")]

        assert waits(outcomes) == [0, 1]

    async def test_a_key_may_come_from_the_payload_or_the_context(self, service: Service) -> None:
        by_payload = RateLimit(1, key=lambda payload, _ctx: payload)
        by_tenant = RateLimit(1, key=lambda _payload, ctx: ctx.headers["tenant"])
        acme = {"tenant": "acme"}

        outcomes = [await service.run(by_payload, payload=name) for name in "aba"]
        again = [await service.run(by_tenant, ctx=service.context(headers=acme)) for _ in range(2)]

        assert waits(outcomes) == [0, 0, 1]
        assert waits(again) == [0, 1]

    async def test_a_burst_may_run_at_once(self, service: Service) -> None:
        outcomes = await service.outcomes(5, RateLimit(60, per_s=60, burst=3))

        assert waits(outcomes) == [0, 0, 0, 1, 2]

    async def test_a_message_may_cost_more_than_another(self, service: Service) -> None:
        limit = RateLimit(100, per_s=1, cost=lambda tokens, _ctx: tokens)

        outcomes = [await service.run(limit, payload=tokens) for tokens in (50, 200, 1)]

        assert waits(outcomes) == [0, 0.5, 2.5]

    @pytest.mark.parametrize("cost", [-1, nan, inf])
    async def test_a_cost_that_is_none_is_the_messages_own_error(
        self, service: Service, cost: float
    ) -> None:
        outcome = await service.run(RateLimit(1, cost=lambda _payload, _ctx: cost))

        assert isinstance(outcome, ValueError)
        assert await service.run(RateLimit(1)) == "done"

    async def test_a_retry_takes_a_turn_but_not_at_the_end_of_the_line(
        self, service: Service
    ) -> None:
        limit = RateLimit(20)
        first = service.context()
        await service.run(limit, ctx=first, error=OSError())
        await service.outcomes(9, limit)

        service.now += 0.05
        retried = await service.run(limit, ctx=first)
        newcomer = await service.run(limit)

        assert retried == "done"
        assert newcomer.after_s == pytest.approx(0.45, abs=1e-5)

    async def test_a_turn_after_the_deadline_is_an_error_and_not_taken(
        self, service: Service
    ) -> None:
        limit = RateLimit(1, per_s=60)
        await service.run(limit)

        late = await service.run(limit, ctx=service.context(deadline_at=time.time() + 30))
        next_one = await service.run(limit)

        assert isinstance(late, DeadlineExceeded)
        assert next_one.after_s == pytest.approx(60, abs=1e-5)

    async def test_a_turn_beyond_all_waiting_is_an_error_too(self, service: Service) -> None:
        limit = RateLimit(1, cost=lambda _payload, _ctx: 1e12)

        outcomes = await service.outcomes(3, limit)

        assert [type(each) for each in outcomes] == [str, RateLimited, DeadlineExceeded]

    async def test_a_message_that_a_second_limit_holds_up_costs_the_first_one_turn(
        self, service: Service
    ) -> None:
        outer, inner = RateLimit(10, key="outer"), RateLimit(1, key="inner")
        await service.run(inner)
        ctx = service.context()

        held_up = await service.run(outer, inner, ctx=ctx)
        service.now += held_up.after_s
        outcome = await service.run(outer, inner, ctx=ctx)
        newcomer = await service.run(outer)

        assert (held_up.after_s, outcome) == (1, "done")
        assert newcomer == "done"

    async def test_where_nobody_can_be_asked_the_message_waits_and_has_made_no_attempt(
        self, service: Service
    ) -> None:
        ctx = service.context()
        ctx.coordinator = Away(TransportUnavailable("gone"))

        outcomes = [await service.run(layer, ctx=ctx) for layer in (RateLimit(1), CircuitBreaker())]

        assert all(isinstance(each, Retry) and not each.counted for each in outcomes)
        assert all(1 <= each.after_s <= 2 for each in outcomes)
        assert service.ran == []

    async def test_a_refusal_is_an_error(self, service: Service) -> None:
        ctx = service.context()
        ctx.coordinator = Away(TransportError("you may not"))

        assert isinstance(await service.run(RateLimit(1), ctx=ctx), TransportError)


class TestCircuitBreaker:
    async def open_one(self, service: Service, breaker: CircuitBreaker) -> None:
        await service.outcomes(breaker.failures, breaker, error=OSError("down"))
        service.ran.clear()

    async def test_failures_in_a_row_keep_messages_from_running(self, service: Service) -> None:
        breaker = CircuitBreaker()
        await self.open_one(service, breaker)

        outcomes = await service.outcomes(20, breaker)

        assert service.ran == []
        assert all(isinstance(each, CircuitOpen) and not each.counted for each in outcomes)
        assert all(30 <= each.after_s <= 60 for each in outcomes)
        assert len(set(waits(outcomes))) > 15

    async def test_one_probe_that_goes_well_lets_all_run_again(self, service: Service) -> None:
        changes: list[tuple[str, str]] = []
        breaker = CircuitBreaker(
            key="llm", on_change=lambda key, state: changes.append((key, state))
        )
        await self.open_one(service, breaker)

        service.now += 30
        outcomes = await service.outcomes(3, breaker)

        assert outcomes == ["done"] * 3
        assert changes == [("llm", "opened"), ("llm", "closed")]

    async def test_a_probe_that_fails_opens_it_for_longer(self, service: Service) -> None:
        breaker = CircuitBreaker()
        await self.open_one(service, breaker)

        service.now += 30
        await service.run(breaker, error=OSError("still down"))
        outcome = await service.run(breaker)

        assert outcome.after_s >= 60

    @pytest.mark.parametrize(
        "error",
        [
            Reject("not a photo"),
            PayloadError(),
            JobCancelled("j"),
            DeadlineExceeded(),
            TransportError(),
            Retry("a rate limit", after_s=1, counted=False),
            RateLimited(after_s=1, counted=False),
            SystemExit(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_what_is_not_the_callees_fault_does_not_count(
        self, service: Service, error: BaseException
    ) -> None:
        breaker = CircuitBreaker()

        await service.outcomes(20, breaker, error=error)

        assert await service.run(breaker) == "done"

    @pytest.mark.parametrize("error", [OSError(), HandlerTimeout(), Retry("busy"), ValueError()])
    async def test_what_may_be_the_callees_fault_counts(
        self, service: Service, error: Exception
    ) -> None:
        breaker = CircuitBreaker()

        await service.outcomes(5, breaker, error=error)

        assert isinstance(await service.run(breaker), CircuitOpen)

    async def test_a_run_that_was_interrupted_counts_by_the_reason(self, service: Service) -> None:
        breaker = CircuitBreaker(failures=1)
        late, cancelled = service.context("late"), service.context("cancelled")
        late.interrupt, cancelled.interrupt = HandlerTimeout(), JobCancelled("j")

        for ctx in (late, cancelled):
            await service.run(breaker, ctx=ctx, error=GeneratorExit())
        outcomes = [
            await service.run(breaker, ctx=service.context(n)) for n in ("late", "cancelled")
        ]

        assert isinstance(outcomes[0], CircuitOpen)
        assert outcomes[1] == "done"

    async def test_rules_say_what_counts(self, service: Service) -> None:
        breaker = CircuitBreaker(failures=1, errors=("OSError",), ignore=(FileNotFoundError,))
        caused = Retry("busy")
        caused.__cause__ = ConnectionError()

        for error in (ValueError(), FileNotFoundError(), Retry("busy")):
            await service.run(breaker, error=error)
        before = await service.run(breaker)
        await service.run(breaker, error=caused)

        assert before == "done"
        assert isinstance(await service.run(breaker), CircuitOpen)

    async def test_a_retry_after_holds_everybody_up(self, service: Service) -> None:
        breaker = CircuitBreaker(honour_retry_after=True)
        await service.run(breaker, error=Retry("429", after_s=5, counted=False))

        outcome = await service.run(breaker)
        service.now += 5

        assert 5 <= outcome.after_s <= 10
        assert await service.outcomes(3, breaker) == ["done"] * 3

    async def test_a_retry_after_is_bounded(self, service: Service) -> None:
        breaker = CircuitBreaker(honour_retry_after=True, max_open_s=60)

        await service.run(breaker, error=Retry("429", after_s=1e9))

        assert (await service.run(breaker)).after_s <= 60 + 30

    async def test_another_limits_wait_is_nobodys_wish_and_frees_the_probe(
        self, service: Service
    ) -> None:
        breaker = CircuitBreaker(honour_retry_after=True)
        await self.open_one(service, breaker)
        service.now += 30

        await service.run(breaker, error=RateLimited(after_s=100, counted=False))

        assert await service.run(breaker) == "done"

    async def test_a_message_whose_deadline_comes_first_fails_at_once(
        self, service: Service
    ) -> None:
        breaker = CircuitBreaker()
        await self.open_one(service, breaker)

        soon = await service.run(breaker, ctx=service.context(deadline_at=time.time() + 10))
        later = [
            await service.run(breaker, ctx=service.context(deadline_at=time.time() + 31))
            for _ in range(20)
        ]

        assert isinstance(soon, DeadlineExceeded)
        assert all(30 <= each.after_s <= 31 for each in later)

    async def test_who_cannot_report_has_its_result_all_the_same(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        breaker = CircuitBreaker(failures=1)
        service.coordinator = Untold()

        outcome = await service.run(breaker, error=OSError("down"))

        assert isinstance(outcome, OSError)
        assert "cannot be told" in caplog.text

    async def test_a_change_is_logged_once(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "asyafw.limits")
        breaker = CircuitBreaker(key="llm")

        await service.outcomes(9, breaker, error=OSError("down"))
        service.now += 30
        await service.run(breaker)

        assert [record.getMessage() for record in caplog.records] == [
            "the circuit 'llm' is opened for 30 s: OSError: down",
            "the circuit 'llm' is closed",
        ]


NO_LIMITS: list[dict[str, Any]] = [
    {"rate": 0},
    {"rate": -1},
    {"rate": nan},
    {"rate": 2e6},
    {"rate": 1, "per_s": 0},
    {"rate": 1, "per_s": inf},
    {"rate": 1, "burst": 0},
]
NO_BREAKERS: list[dict[str, Any]] = [
    {"failures": 0},
    {"half_open": 0},
    {"open_s": 0},
    {"within_s": inf},
    {"max_open_s": nan},
    {"errors": "OSError"},
    {"ignore": (1,)},
]


@pytest.mark.parametrize("options", NO_LIMITS, ids=str)
def test_a_limit_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RateLimit(**options)


@pytest.mark.parametrize("options", NO_BREAKERS, ids=str)
def test_a_breaker_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        CircuitBreaker(**options)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "after_s"),
        [
            ("120", 120),
            (" 7 ", 7),
            ("0", 0),
            ("1.5", 1.5),
            ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
            ("Tuesday, 14-Nov-23 22:13:30 GMT", 10),
            ("Tue Nov 14 22:13:30 2023", 10),
            ("Tue, 14 Nov 2023 22:13:10 GMT", 0),
            ("9" * 5000, 3600),
            ("Tue, 14 Nov 2033 22:13:30 GMT", 3600),
        ],
    )
    def test_seconds_and_dates_are_read(self, header: str, after_s: float) -> None:
        assert retry_after(header, now=NOW) == after_s

    @pytest.mark.parametrize(
        "header",
        [None, "", "soon", "-5", "1e9", "nan", "inf", "٣", "Tue, 99 Nov 2023 22:13:30 GMT", "\0"],
    )
    def test_anything_else_is_none(self, header: str | None) -> None:
        assert retry_after(header, now=NOW) is None

    @given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+"))
    def test_whatever_it_says_a_retry_can_take(self, header: str) -> None:
        after_s = retry_after(header, longest_s=60)

        assert after_s is None or 0 <= after_s <= 60
        Retry(after_s=after_s)

    @given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
    def test_a_date_is_read_as_it_was_written(self, date: datetime) -> None:
        date = date.replace(microsecond=0)

        after_s = retry_after(format_datetime(date, usegmt=True), longest_s=inf, now=0)

        assert after_s == date.timestamp()

    def test_without_now_it_is_now(self) -> None:
        date = format_datetime(datetime.fromtimestamp(time.time() + 100, UTC), usegmt=True)

        after_s = retry_after(date)

        assert after_s is not None
        assert 90 < after_s <= 100


async def test_a_message_has_its_turn_with_it(service: Service) -> None:
    ctx = service.context()
    await service.run(RateLimit(1))

    await service.run(RateLimit(1), ctx=ctx)

    assert ctx.envelope.turns == {"ask": Turn(int((NOW + 1) * 1e6))}
    assert replace(ctx.envelope, turns={}) == make_context(["ask"], id=ctx.id, job=ctx.id).envelope
