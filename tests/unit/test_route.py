import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyafw.envelope import Route

names = st.sampled_from(["enhance", "judge", "publish", "notify"])
name_lists = st.lists(names, max_size=5).map(tuple)
routes = st.builds(Route, names, name_lists, name_lists)


def stops(route: Route) -> tuple[str, ...]:
    """All names of a route, in the order of their visits."""
    return (*route.prev, route.curr, *route.next)


@given(routes.filter(lambda route: route.next != ()))
def test_advancing_moves_to_the_next_and_keeps_every_name(route: Route) -> None:
    advanced = route.advance()

    assert advanced.curr == route.next[0]
    assert advanced.prev == (*route.prev, route.curr)
    assert stops(advanced) == stops(route)


@given(routes)
def test_a_route_ends_after_as_many_advances_as_it_has_names_ahead(route: Route) -> None:
    end = route
    for _ in route.next:
        end = end.advance()

    assert end.next == ()
    assert stops(end) == stops(route)


@given(routes)
def test_nobody_follows_the_end_of_a_route(route: Route) -> None:
    with pytest.raises(IndexError):
        route.stop().advance()


@given(routes, name_lists)
def test_no_change_touches_what_is_past_or_present(route: Route, added: tuple[str, ...]) -> None:
    changed = route.prepend(*added), route.append(*added), route.replace(*added), route.stop()

    assert {(after.prev, after.curr) for after in changed} == {(route.prev, route.curr)}


@given(routes, name_lists)
def test_prepended_names_come_first_and_the_rest_follows(
    route: Route, added: tuple[str, ...]
) -> None:
    assert route.prepend(*added).next == added + route.next


@given(routes, name_lists)
def test_appended_names_come_last(route: Route, added: tuple[str, ...]) -> None:
    assert route.append(*added).next == route.next + added


@given(routes, name_lists, name_lists)
def test_names_can_be_added_one_by_one_or_together(
    route: Route, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert route.append(*one).append(*other) == route.append(*one, *other)
    assert route.prepend(*other).prepend(*one) == route.prepend(*one, *other)
    assert route.prepend(*one).append(*other) == route.append(*other).prepend(*one)


@given(routes)
def test_adding_nobody_changes_nothing(route: Route) -> None:
    assert route.prepend() == route.append() == route.replace(*route.next) == route


@given(routes, name_lists, name_lists)
def test_the_last_replacement_counts(
    route: Route, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert route.replace(*one).replace(*other) == route.replace(*other)
    assert route.replace(*one).next == one


@given(routes, name_lists)
def test_stopping_leaves_nobody_ahead_until_names_are_added(
    route: Route, added: tuple[str, ...]
) -> None:
    stopped = route.stop()

    assert stopped.next == ()
    assert stopped.stop() == stopped == route.replace()
    assert stopped.append(*added) == stopped.prepend(*added) == route.replace(*added)


@given(routes, names)
def test_a_prepended_actor_is_visited_next(route: Route, name: str) -> None:
    assert route.prepend(name).advance() == Route(name, route.next, (*route.prev, route.curr))
