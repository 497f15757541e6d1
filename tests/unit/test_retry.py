import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyafw import exceptions
from asyafw.envelope import LONGEST_WAIT_S
from asyafw.exceptions import (
    AsyafwError,
    ConfigurationError,
    HandlerTimeout,
    PayloadError,
    Reject,
    Retry,
)
from asyafw.retry import RetryPolicy, Rule, exponential, fixed, matches

attempts = st.integers(1, 10_000)
fractions = st.floats(0, 1, exclude_max=True)
waits = st.floats(0, LONGEST_WAIT_S)
positive = st.floats(0, 1e308)


class ModelError(Exception):
    class OutOfMemoryError(RuntimeError):
        pass


class NoFace(Reject):
    pass


def delays(policy: RetryPolicy, *, up_to: int) -> list[float | None]:
    return [policy.delay_s(ValueError(), attempt, 0) for attempt in range(1, up_to + 1)]


def test_a_failure_is_retried_twice_unless_told_otherwise() -> None:
    assert delays(RetryPolicy(), up_to=4) == [1, 2, None, None]


@given(st.integers(1, 20), st.integers(1, 40))
def test_there_are_as_many_runs_as_max_attempts(max_attempts: int, attempt: int) -> None:
    policy = RetryPolicy(max_attempts)

    retried = policy.delay_s(ValueError(), attempt, 0) is not None
    retried_on_request = policy.delay_s(Retry(after_s=1), attempt, 0) is not None

    assert retried == retried_on_request == (attempt < max_attempts)


@given(waits, attempts, fractions, st.floats(0, 1), st.floats() | positive)
@example(300, 1, 0, 0.2, math.nan)
@example(300, 1, 0, 0.2, math.inf)
@example(300, 1, 0, 0.2, -1)
def test_a_delay_is_within_its_jitter_below_the_backoff_and_the_maximum(
    max_delay_s: float, attempt: int, random: float, jitter: float, backoff_s: float
) -> None:
    policy = RetryPolicy(20_000, fixed(backoff_s), max_delay_s, jitter)
    longest = min(max_delay_s, backoff_s) if backoff_s > 0 else 0

    delay_s = policy.delay_s(ValueError(), attempt, random)

    assert delay_s is not None
    assert longest * (1 - jitter) <= delay_s <= longest


@given(positive, st.floats(1, 1e308) | st.integers(1, 10**400), attempts)
@example(1, 2, 10_000)
@example(1, 10**400, 2)
@example(0, 1e308, 10_000)
@example(1e308, 1e308, 10_000)
def test_exponential_backoff_never_overflows_and_never_shrinks(
    base_s: float, factor: float, attempt: int
) -> None:
    backoff = exponential(base_s, factor)

    assert 0 <= backoff(attempt) <= backoff(attempt + 1)


@given(waits, st.integers(1, 3))
def test_delays_grow_up_to_the_maximum_and_stay_there(max_delay_s: float, factor: int) -> None:
    policy = RetryPolicy(100, exponential(1, factor), max_delay_s, jitter=0)

    grown = [delay_s for delay_s in delays(policy, up_to=99) if delay_s is not None]

    assert len(grown) == 99
    assert grown == sorted(grown)
    assert grown[-1] == min(max_delay_s, factor**98)


def test_exponential_backoff_multiplies_by_its_factor() -> None:
    backoff = exponential(base_s=0.5, factor=3)

    assert [backoff(attempt) for attempt in (1, 2, 3, 4)] == [0.5, 1.5, 4.5, 13.5]


def test_fixed_backoff_is_always_the_same() -> None:
    backoff = fixed(2.5)

    assert [backoff(attempt) for attempt in (1, 2, 1000)] == [2.5, 2.5, 2.5]


def test_a_base_of_no_time_stays_no_time() -> None:
    assert exponential(0)(10_000) == 0


@given(waits, fractions)
def test_a_handler_that_asks_for_a_delay_gets_it(after_s: float, random: float) -> None:
    policy = RetryPolicy(max_delay_s=1, retry_on=(), give_up_on=(Retry,))

    assert policy.delay_s(Retry(after_s=after_s), 1, random) == after_s


def test_a_handler_that_asks_for_no_delay_gets_the_policys() -> None:
    policy = RetryPolicy(backoff=fixed(7), retry_on=())

    assert policy.delay_s(Retry(), 1, 0) == 7


def test_what_a_handler_rejects_is_final() -> None:
    policy = RetryPolicy(retry_on=(Exception, Reject, "Reject"))

    assert policy.delay_s(Reject("not a photo"), 1, 0) is None
    assert policy.delay_s(NoFace(), 1, 0) is None


OWN: dict[str, type[AsyafwError]] = {
    name: getattr(exceptions, name)
    for name in exceptions.__all__
    if not issubclass(getattr(exceptions, name), Retry | Reject)
}


@pytest.mark.parametrize("cls", OWN.values(), ids=OWN)
def test_of_asyafws_own_errors_the_transient_ones_are_retried(cls: type[AsyafwError]) -> None:
    error = cls.__new__(cls)

    delay_s = RetryPolicy(retry_on=(Exception, AsyafwError)).delay_s(error, 1, 0)

    assert (delay_s is not None) is cls.transient


def test_what_may_go_well_at_another_time_is_transient() -> None:
    assert {name for name, cls in OWN.items() if cls.transient} == {
        *("BlobUnavailable", "HandlerTimeout", "HandlerCancelled", "ProcessCrashed"),
        *("TransportError", "TransportClosed", "TransportUnavailable"),
    }


def test_transient_errors_obey_the_rules_like_any_other() -> None:
    assert RetryPolicy(retry_on=(ValueError,)).delay_s(HandlerTimeout(), 1, 0) is None
    assert RetryPolicy(retry_on=(TimeoutError,)).delay_s(HandlerTimeout(), 1, 0) == 1
    assert RetryPolicy(give_up_on=(TimeoutError,)).delay_s(HandlerTimeout(), 1, 0) is None


def test_an_error_of_the_interpreter_is_not_retried_unless_named() -> None:
    assert RetryPolicy().delay_s(SystemExit(), 1, 0) is None
    assert RetryPolicy(retry_on=(BaseException,)).delay_s(SystemExit(), 1, 0) == 1


@pytest.mark.parametrize(
    ("retry_on", "give_up_on", "retried"),
    [
        ((ConnectionError,), (), True),
        ((OSError,), (), True),
        (("ConnectionResetError",), (), True),
        (("builtins.ConnectionError",), (), True),
        ((ValueError,), (), False),
        ((ValueError, "OSError"), (), True),
        ((), (), False),
        ((Exception,), (ConnectionError,), False),
        ((Exception,), ("ConnectionResetError",), False),
        ((Exception,), (BrokenPipeError,), True),
        ((ConnectionResetError,), (OSError,), False),
        (["OSError"], [], True),
    ],
)
def test_a_failure_is_retried_if_a_rule_says_so_and_none_against_it(
    retry_on: tuple[Rule, ...],
    give_up_on: tuple[Rule, ...],
    retried: bool,  # noqa: FBT001 — an expectation
) -> None:
    policy = RetryPolicy(retry_on=retry_on, give_up_on=give_up_on)

    assert (policy.delay_s(ConnectionResetError(), 1, 0) is not None) is retried


@pytest.mark.parametrize(
    "rule",
    [
        ModelError.OutOfMemoryError,
        RuntimeError,
        BaseException,
        "ModelError.OutOfMemoryError",
        f"{__name__}.ModelError.OutOfMemoryError",
        "RuntimeError",
        "builtins.RuntimeError",
        "object",
    ],
    ids=repr,
)
def test_a_rule_names_a_class_that_the_error_derives_from(rule: Rule) -> None:
    assert matches(rule, ModelError.OutOfMemoryError())


@pytest.mark.parametrize(
    "rule",
    [ModelError, ValueError, "ModelError", "OutOfMemoryError", "torch.RuntimeError", "Runtime", ""],
    ids=repr,
)
def test_a_rule_that_names_something_else_does_not_match(rule: Rule) -> None:
    assert not matches(rule, ModelError.OutOfMemoryError())


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"backoff": 1.0}, "backoff"),
        ({"max_delay_s": -1}, "max_delay_s"),
        ({"max_delay_s": math.nan}, "max_delay_s"),
        ({"max_delay_s": math.inf}, "max_delay_s"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": math.nan}, "jitter"),
        ({"retry_on": "ConnectionError"}, "retry_on"),
        ({"retry_on": ConnectionError}, "retry_on"),
        ({"retry_on": (ConnectionError(),)}, "retry_on"),
        ({"give_up_on": (int,)}, "give_up_on"),
        ({"give_up_on": None}, "give_up_on"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy\({problem}=\.\.\.\)"):
        RetryPolicy(**wrong)


def test_payloads_that_do_not_match_are_final_although_they_are_value_errors() -> None:
    assert RetryPolicy(retry_on=(ValueError,)).delay_s(PayloadError(), 1, 0) is None
