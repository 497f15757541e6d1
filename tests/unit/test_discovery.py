import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyafw import _discovery
from asyafw._actor import Actor, actor
from asyafw._discovery import find_actors, find_instances, load
from asyafw.exceptions import TargetError

ACTORS = """
import dataclasses
from asyafw._actor import actor
from pipelines.others import publish

@actor
async def enhance(x: int) -> int:
    return x

@actor
async def judge(x: int) -> int:
    return x

again = enhance
_hidden = actor(name="hidden")(judge.handler)
limit = 3
"""

OTHERS = """
from asyafw._actor import actor

@actor
async def publish(x: int) -> int:
    return x
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package called "pipelines", on `sys.path`."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__init__.py").touch()
    yield package
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def actors(folder: Path) -> ModuleType:
    (folder / "actors.py").write_text(ACTORS)
    (folder / "others.py").write_text(OTHERS)
    return load("pipelines.actors").module


def message_of(target: str) -> str:
    with pytest.raises(TargetError) as caught:
        load(target)
    return str(caught.value)


def test_a_module_is_loaded(actors: ModuleType) -> None:
    target = load("pipelines.actors")

    assert target == (actors, None, None)


def test_an_attribute_of_a_module_is_loaded(actors: ModuleType) -> None:
    target = load("pipelines.actors:enhance")

    assert target == (actors, "enhance", actors.enhance)


def test_an_attribute_may_be_none(folder: Path) -> None:
    (folder / "empty.py").write_text("app = None")

    assert load("pipelines.empty:app")[1:] == ("app", None)


def test_actors_are_found_in_order_each_once(actors: ModuleType) -> None:
    found = find_actors(actors)

    assert [each.name for each in found] == ["publish", "enhance", "judge", "hidden"]


def test_actors_of_submodules_are_not_found(actors: ModuleType) -> None:
    assert actors.__name__ in sys.modules

    assert find_actors(sys.modules["pipelines"]) == []


def test_instances_of_derived_classes_are_found() -> None:
    module = ModuleType("numbers")
    vars(module).update(one=1, yes=True, text="1", kind=int)

    assert find_instances(module, int) == [1, True]


class Proxy:
    """Stands for an object that is not there yet."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request")


def test_proxies_of_what_is_not_there_are_passed_over() -> None:
    module = ModuleType("proxies")
    handled = actor(name="x")(load)
    vars(module).update(request=Proxy(), x=handled)

    assert find_actors(module) == [handled]


@pytest.mark.parametrize(
    "target", ["", ":app", "pipelines.", "pipelines:", "a b", "a:b.c", "a:b:c"]
)
def test_what_is_no_target_is_told(target: str) -> None:
    told = message_of(target)

    assert told == f"{target!r} is no target: write pkg.module or pkg.module:attribute"


@pytest.mark.parametrize("target", ["pipelines/actors.py", "./pipelines/actors:app", "a/b.py:app"])
def test_the_module_of_a_file_is_told(target: str) -> None:
    dotted = "a.b" if target.startswith("a/") else "pipelines.actors"

    assert f"is a file; write its module, {dotted!r}" in message_of(target)


def test_a_module_that_is_not_there_tells_where_it_was_sought() -> None:
    told = message_of("nowhere.actors")

    assert told == (
        f"there is no module 'nowhere', neither in {Path.cwd()} nor among what is installed: "
        "run this from the folder that holds 'nowhere'"
    )


def test_a_submodule_that_is_not_there_is_told(folder: Path) -> None:
    assert folder.exists()

    told = message_of("pipelines.actos")

    assert told == "there is no module 'pipelines.actos': No module named 'pipelines.actos'"


def test_a_part_of_the_name_that_is_no_package_is_told(actors: ModuleType) -> None:
    told = message_of(f"{actors.__name__}.enhance")

    assert told.endswith("'pipelines.actors' is not a package")


def test_a_failing_module_shows_its_own_traceback_only(folder: Path) -> None:
    (folder / "weights.py").write_text("def load():\n    raise OSError('no disk')\n")
    (folder / "broken.py").write_text("from pipelines.weights import load\n\nload()\n")

    told = message_of("pipelines.broken")

    assert told.startswith("module 'pipelines.broken' fails as it is imported:\n\nTraceback ")
    assert re.findall(r'File ".*/(\w+\.py)", line (\d+)', told) == [
        ("broken.py", "3"),
        ("weights.py", "2"),
    ]
    assert told.endswith("OSError: no disk")
    assert "importlib" not in told


@pytest.mark.parametrize("missing", ["no_such_package", "pipelines.no_such_module"])
def test_an_import_that_fails_inside_is_not_taken_for_a_missing_target(
    folder: Path, missing: str
) -> None:
    (folder / "needy.py").write_text(f"x = 1\nimport {missing}\n")

    told = message_of("pipelines.needy")

    assert told.startswith("module 'pipelines.needy' fails as it is imported:")
    assert re.findall(r'File ".*/(\w+\.py)", line (\d+)', told) == [("needy.py", "2")]
    assert told.endswith(f"No module named '{missing}'")


def test_a_package_that_fails_is_not_taken_for_a_missing_target(folder: Path) -> None:
    (folder / "__init__.py").write_text("import pipelines.actors\n")

    told = message_of("pipelines.actors")

    assert told.startswith("module 'pipelines.actors' fails as it is imported:")
    assert '__init__.py", line 1' in told


def test_a_name_that_cannot_be_imported_shows_where(folder: Path) -> None:
    (folder / "needy.py").write_text("from pipelines import enhance\n")

    told = message_of("pipelines.needy")

    assert 'needy.py", line 1' in told
    assert "ImportError: cannot import name 'enhance' from 'pipelines'" in told


def test_a_syntax_error_shows_its_line(folder: Path) -> None:
    (folder / "typo.py").write_text("x = 1\nasync def enhance(:\n")

    told = message_of("pipelines.typo")

    assert "fails as it is imported" in told
    assert 'typo.py", line 2' in told
    assert "SyntaxError" in told
    assert _discovery.__file__ not in told


def test_the_error_of_a_failing_module_is_the_cause(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")

    with pytest.raises(TargetError) as caught:
        load("pipelines.broken")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_module_that_exits_is_told_how_not_to(folder: Path) -> None:
    (folder / "script.py").write_text("import sys\nsys.exit(3)\n")

    told = message_of("pipelines.script")

    assert told.startswith("module 'pipelines.script' exits when it is imported: put what it runs")


def test_a_misspelled_attribute_tells_the_nearest(actors: ModuleType) -> None:
    told = message_of("pipelines.actors:enhnace")

    assert told == "module 'pipelines.actors' has no 'enhnace'; did you mean 'enhance'?"
    assert isinstance(actors.enhance, Actor)


def test_a_missing_attribute_tells_what_the_module_has(folder: Path) -> None:
    (folder / "some.py").write_text(
        "import os\nfrom pathlib import Path\nfrom json import loads\n"
        "here = Path()\n_own = 1\ndef helper(): ...\nclass Kind: ...\n"
    )

    told = message_of("pipelines.some:app")

    assert told == "module 'pipelines.some' has no 'app'; it has here, helper, Kind"


def test_of_many_attributes_the_first_are_told(folder: Path) -> None:
    (folder / "many.py").write_text("".join(f"value{n} = {n}\n" for n in range(30)))

    told = message_of("pipelines.many:app")

    assert told.endswith("it has " + ", ".join(f"value{n}" for n in range(12)) + ", …")


def test_a_module_without_attributes_is_empty(folder: Path) -> None:
    (folder / "bare.py").write_text("import os\n")

    assert message_of("pipelines.bare:app") == "module 'pipelines.bare' has no 'app'; it is empty"
