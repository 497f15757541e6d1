from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from asyafw._actor import Actor, Batch, Join, actor
from asyafw._check import problems


class Photo(Struct):
    uri: str
    score: float | None = None


class Scored(Struct):
    uri: str
    score: float


@actor
async def enhance(photo: Photo) -> Photo:
    return photo


@actor
async def judge(photo: Photo) -> Scored:
    return Scored(photo.uri, 1.0)


@actor
async def rank(photo: Scored) -> Scored:
    return photo


@actor
async def publish(photo: Scored) -> Scored | None:
    return photo


@actor
async def log(_photo: Photo) -> None:
    """Give nothing."""


@actor
async def anything(payload: Any) -> Any:
    return payload


@actor
async def split(photo: Photo) -> AsyncIterator[Photo]:
    yield photo


@actor
async def tile(photo: Photo) -> AsyncIterator[Photo | None]:
    yield photo


@actor(join=Join())
async def merge(photos: list[Photo | None]) -> Photo:
    return next(photo for photo in photos if photo)


@actor(join=Join())
async def choose(photos: list[Scored]) -> Scored:
    return photos[0]


@actor(join=Join())
async def reshard(photos: list[Photo]) -> AsyncIterator[Photo]:
    for photo in photos:
        yield photo


@actor(batch=Batch())
async def embed(photos: list[Photo]) -> list[Scored | ValueError]:
    return [Scored(photo.uri, 1.0) for photo in photos]


ACTORS: tuple[Actor[..., Any], ...] = (
    *(enhance, judge, rank, publish, log, anything),
    *(split, tile, merge, choose, reshard, embed),
)


UNSCORED = "field `score`: float | None, but float is taken"
GAPS = "item `[]`: Photo | None, but Photo is taken"
REMOTE = "if another app serves it, say so by App(remote=[...])"


def check(*more: Actor[..., Any], known: Sequence[str] = (), **flows: Sequence[str]) -> list[str]:
    """Check the flows of an app that has `more` actors, which replace those of the same name."""
    return problems({each.name: each for each in (*ACTORS, *more)}, flows, known)


def with_options(handler: Actor[..., Any], **options: Any) -> Actor[..., Any]:
    return Actor(handler.handler, **options)


@pytest.mark.parametrize(
    "route",
    [
        ["enhance"],
        ["enhance", "judge", "rank", "publish"],
        ["enhance", "enhance", "embed", "publish"],
        ["anything", "rank", "anything", "enhance"],
        ["publish", "rank"],
        ["rank", "enhance"],
        ["split", "judge", "publish"],
        ["split", "judge", "choose", "publish"],
        ["split", "tile", "merge", "judge", "choose"],
        ["split", "reshard", "merge"],
        ["tile", "merge", "log"],
    ],
    ids=" ".join,
)
def test_a_flow_whose_types_fit_has_no_problem(route: list[str]) -> None:
    assert check(photos=route) == []


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (["enhance", "rank"], f"'enhance' gives what 'rank' does not take: {UNSCORED}"),
        (["split", "rank"], f"'split' gives what 'rank' does not take: {UNSCORED}"),
        (
            ["split", "enhance", "choose"],
            f"'enhance' gives what 'choose' does not take: {UNSCORED}",
        ),
        (["split", "merge", "rank"], f"'merge' gives what 'rank' does not take: {UNSCORED}"),
        (["log", "enhance"], "'log' only gives None, which ends the route before 'enhance'"),
        (["enhance", "merge"], "'merge' joins, but nothing before it fans out for it"),
        (["split", "merge", "merge"], "'merge' joins, but nothing before it fans out for it"),
        (["reshard", "merge"], "'reshard' joins, but nothing before it fans out for it"),
        (["enhance", "jugde"], "the app has no actor 'jugde'; did you mean 'judge'?"),
        (
            ["enhance", "archive"],
            "the app has no actor 'archive'; if another app serves it, say so by App(remote=[...])",
        ),
    ],
    ids=str,
)
def test_a_hop_that_does_not_fit_is_told(route: list[str], told: str) -> None:
    assert check(photos=route) == [f"flow 'photos': {told}"]


def test_an_empty_flow_is_told() -> None:
    assert check(photos=[]) == ["flow 'photos' is empty: it leads to at least one actor"]


def test_a_text_for_a_flow_is_told() -> None:
    assert check(photos="enhance") == ["flow 'photos' is the text 'enhance': write ['enhance']"]


def test_a_flow_without_a_proper_name_is_told() -> None:
    (told,) = check(Photos=["enhance"])

    assert told.startswith("flow 'Photos': 'Photos' is no name: use ")


def test_actors_of_other_apps_may_be_visited_unchecked() -> None:
    assert check(known=["archive"], photos=["enhance", "archive", "rank", "archive"]) == []


def test_a_pair_that_does_not_fit_is_told_once() -> None:
    found = check(first=["enhance", "rank"], second=["enhance", "rank", "enhance", "rank"])

    assert [each.partition(":")[0] for each in found] == ["flow 'first'"]


def test_what_an_actor_may_route_to_must_take_what_it_gives() -> None:
    found = check(with_options(judge, may_route_to=["rank", "enhance", "anything"]))
    wrong = check(with_options(enhance, may_route_to=["enhance", "rank"]))

    assert found == []
    assert wrong == [
        f"may_route_to of 'enhance': 'enhance' gives what 'rank' does not take: {UNSCORED}"
    ]


def test_an_unknown_actor_that_one_may_route_to_is_told() -> None:
    found = check(with_options(judge, may_route_to=["enhnace", "archive"]), known=["archive"])

    assert found == [
        "may_route_to of 'judge': the app has no actor 'enhnace'; did you mean 'enhance'?"
    ]


def test_a_recovery_route_must_take_what_failed() -> None:
    fine = check(with_options(rank, on_exhausted=["enhance", "judge"]))
    wrong = check(with_options(judge, on_exhausted=["publish"]))

    assert fine == []
    assert wrong == [
        f"on_exhausted of 'judge': 'publish' does not take what 'judge' takes: {UNSCORED}"
    ]


def test_a_recovery_route_must_fit_along_its_way() -> None:
    wrong = check(with_options(judge, on_exhausted=["enhance", "rank"]))

    assert wrong == [
        f"on_exhausted of 'judge': 'enhance' gives what 'rank' does not take: {UNSCORED}"
    ]


def test_an_unknown_actor_on_a_recovery_route_is_told() -> None:
    found = check(with_options(judge, on_exhausted=["notify"]))

    assert found == [f"on_exhausted of 'judge': the app has no actor 'notify'; {REMOTE}"]


def test_a_recovery_route_may_lead_to_another_app() -> None:
    assert check(with_options(judge, on_exhausted=["notify", "rank"]), known=["notify"]) == []


async def salvage(photos: list[Photo | None]) -> list[Photo | None]:
    return photos


async def salvage_all(photos: list[Photo]) -> list[Photo]:
    return photos


def test_the_recovery_route_of_a_join_takes_its_siblings_with_gaps() -> None:
    recovered = with_options(merge, join=Join(), on_exhausted=["salvage"])

    assert check(recovered, actor(salvage)) == []
    assert check(recovered, actor(name="salvage")(salvage_all)) == [
        f"on_exhausted of 'merge': 'salvage' does not take what 'merge' takes: {GAPS}"
    ]


@pytest.mark.parametrize("target", ["split", "elsewhere"])
def test_a_join_may_follow_what_may_route_to_a_fan_out(target: str) -> None:
    dynamic = with_options(enhance, may_route_to=[target])

    assert check(dynamic, known=["elsewhere"], photos=["enhance", "merge"]) == []


def test_a_join_may_follow_an_actor_of_another_app() -> None:
    assert check(known=["elsewhere"], photos=["elsewhere", "merge"]) == []


def test_all_problems_are_told_in_order() -> None:
    found = check(
        with_options(judge, may_route_to=["nowhere"]),
        empty=[],
        photos=["enhance", "rank", "nobody", "merge"],
    )

    assert [each.partition(":")[0] for each in found] == [
        "flow 'empty' is empty",
        "flow 'photos'",
        "may_route_to of 'judge'",
        "flow 'photos'",
    ]


def test_an_app_without_flows_has_no_problem() -> None:
    assert problems({}, {}, ()) == []
    assert check() == []


OPENING, CLOSING, PLAIN = "split", "merge", "enhance"


@settings(deadline=None)
@given(st.lists(st.sampled_from([OPENING, CLOSING, PLAIN]), min_size=1, max_size=12))
def test_joins_match_fan_outs_as_brackets_do(route: list[str]) -> None:
    unopened = any(
        route[:end].count(CLOSING) > route[:end].count(OPENING) for end in range(len(route) + 1)
    )

    found = check(photos=route)

    assert bool(found) == unopened
    assert all("'merge' joins" in each for each in found)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.sampled_from([each.name for each in ACTORS])))
)
def test_whatever_the_flows_are_each_problem_is_told_once(
    flows: Mapping[str, Sequence[str]],
) -> None:
    found = problems({each.name: each for each in ACTORS}, flows, ())

    assert len(found) == len(set(found))
