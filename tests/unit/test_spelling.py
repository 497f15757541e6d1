import pytest

from asyafw._spelling import did_you_mean


@pytest.mark.parametrize("names", [["judge", "enhance"], {"judge": 1, "enhance": 2}, {"enhance"}])
def test_the_most_similar_name_is_asked_for(names: list[str]) -> None:
    assert did_you_mean("enhnace", names) == "did you mean 'enhance'?"


def test_of_names_that_are_similar_only_one_is_asked_for() -> None:
    assert did_you_mean("photo", ["photographs", "photos"]) == "did you mean 'photos'?"


@pytest.mark.parametrize("names", [[], ["judge", "publish"]])
def test_where_no_name_is_similar_nothing_is_asked(names: list[str]) -> None:
    assert did_you_mean("enhance", names) == ""
