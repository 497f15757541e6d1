import copy
import inspect
import math
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from asyafw import exceptions
from asyafw.envelope import LONGEST_WAIT_S, Failure
from asyafw.exceptions import (
    AppCheckError,
    AsyafwError,
    DeadlineExceeded,
    HandlerTimeout,
    JobCancelled,
    JobFailed,
    MissingExtra,
    PayloadError,
    Reject,
    ResultTimeout,
    ResultTypeError,
    Retry,
)

CLASSES: list[type[AsyafwError]] = [
    value for name in exceptions.__all__ if isinstance(value := getattr(exceptions, name), type)
]
FAILURE = Failure("ValueError", "no face", "judge")
MADE: list[AsyafwError] = [
    AsyafwError(),
    AppCheckError(["one", "two"]),
    DeadlineExceeded(),
    HandlerTimeout("after 30 s"),
    JobCancelled("j1"),
    JobFailed("j1", FAILURE),
    MissingExtra("redis", "redis://"),
    PayloadError("no uri"),
    Reject(),
    ResultTimeout("j1", "after 60 s"),
    Retry("busy", after_s=2.5, counted=False),
]


class NoFace(Reject):
    pass


class NoEyes(Reject):
    """
    The face has no eyes.

    And more to say about it.
    """

    def __init__(self, faces: int) -> None:
        super().__init__()
        self.faces = faces


def drawn_tree() -> Iterator[tuple[str, str]]:
    """The names and their parents in the picture of the module's docstring."""
    above: dict[int, str] = {}
    _, _, picture = (exceptions.__doc__ or "").partition("::")
    for line in picture.splitlines():
        drawn = re.match(r"( *(?:│ +|[├└]── )*)([A-Z][A-Za-z]+(?:, ?[A-Z][A-Za-z]+)*)", line)
        if drawn and line.startswith("    "):
            depth = len(drawn[1])
            names = re.findall(r"\w+", drawn[2])
            for name in names:
                yield name, above.get(depth - 4, "Exception")
            above[depth] = names[-1]


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {cls.__name__: cls.__mro__[1].__name__ for cls in CLASSES}

    drawn = list(drawn_tree())

    assert dict(drawn) == real
    assert len(drawn) == len(real)


def test_all_exceptions_of_the_module_are_public_and_sorted() -> None:
    found = [
        name
        for name, cls in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(cls, Exception)
    ]

    assert exceptions.__all__ == found


@pytest.mark.parametrize("cls", CLASSES)
def test_there_is_one_root(cls: type[AsyafwError]) -> None:
    assert issubclass(cls, AsyafwError)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (PayloadError, ValueError),
        (ResultTypeError, TypeError),
        (HandlerTimeout, TimeoutError),
        (DeadlineExceeded, TimeoutError),
        (ResultTimeout, TimeoutError),
    ],
)
def test_what_python_has_a_word_for_can_be_caught_by_it(
    cls: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_first_line_of_the_docstring_is_the_message_where_none_is_given(
    cls: type[AsyafwError],
) -> None:
    error = cls.__new__(cls)

    AsyafwError.__init__(error)

    assert cls.__doc__
    assert str(error) == cls.__doc__.splitlines()[0]
    assert str(error).endswith(".")


def test_a_given_message_is_the_message() -> None:
    assert str(Reject("not a photo")) == "not a photo"
    assert str(HandlerTimeout("after 30 s")) == "after 30 s"


def test_a_class_of_ones_own_speaks_for_itself_or_as_its_parent() -> None:
    assert str(NoEyes(2)) == "The face has no eyes."
    assert str(NoFace()) == "The handler refused the message."


@pytest.mark.parametrize("error", [*MADE, NoEyes(2)], ids=repr)
def test_an_error_crosses_to_another_process_as_it_is(error: AsyafwError) -> None:
    error.add_note("seen by a worker")

    crossed = pickle.loads(pickle.dumps(error))
    copied = copy.copy(error)

    for other in (crossed, copied):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_app_checks_hold_their_problems() -> None:
    error = AppCheckError(["one", "two"])

    assert error.problems == ("one", "two")
    assert str(error) == "one\ntwo"


def test_a_missing_extra_names_what_to_install() -> None:
    error = MissingExtra("redis", "redis://")

    assert error.extra == "redis"
    assert str(error) == "redis:// needs an extra: pip install 'asyafw[redis]'"


def test_a_failed_job_tells_what_failed_and_where() -> None:
    error = JobFailed("j1", FAILURE)

    assert (error.job, error.error) == ("j1", FAILURE)
    assert str(error) == "ValueError in judge: no face"


def test_a_job_error_holds_its_job() -> None:
    assert JobCancelled("j1").job == "j1"
    assert str(ResultTimeout("j1")) == "The job did not end in time; it goes on."


def test_a_retry_counts_and_leaves_its_delay_to_the_policy_unless_told_otherwise() -> None:
    retry = Retry()

    assert retry.after_s is None
    assert retry.counted


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 0), (2.5, 2.5), (-3, 0), (-math.inf, 0), (LONGEST_WAIT_S, LONGEST_WAIT_S)],
)
def test_a_retry_after_a_time_that_is_over_is_one_at_once(asked: float, given: float) -> None:
    assert Retry(after_s=asked).after_s == given


@pytest.mark.parametrize("after_s", [math.nan, math.inf, math.nextafter(LONGEST_WAIT_S, math.inf)])
def test_a_retry_after_no_sensible_time_is_refused(after_s: Any) -> None:
    with pytest.raises(ValueError, match="is at most"):
        Retry(after_s=after_s)
