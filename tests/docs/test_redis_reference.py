import re

from asyafw_redis._options import OPTIONS, Options
from msgspec.structs import fields

from tests.docs.blocks import ROOT

ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (all|`unix`|TLS|Sentinel) \|", re.MULTILINE)
SCHEME = re.compile(r'^"?(\S+?)"? = "asyafw_redis:', re.MULTILINE)


def test_every_option_of_redis_is_told_with_its_default() -> None:
    text = (ROOT / "docs" / "reference" / "urls.md").read_text()
    told = {name: default.strip("`") for name, default, _ in ROW.findall(text)}

    defaults = {field.name: field.default for field in fields(Options)}
    offered = {
        name: {None: "none"}.get(defaults[name], str(defaults[name]).removesuffix(".0"))
        for name in OPTIONS
    }

    assert told == {**offered, "ca_file": "the system's"}


def test_every_scheme_of_redis_is_told() -> None:
    text = (ROOT / "docs" / "reference" / "urls.md").read_text()
    schemes = SCHEME.findall((ROOT / "pyproject.toml").read_text())

    assert "redis" in schemes
    assert [scheme for scheme in schemes if f"`{scheme}`" not in text] == []
    assert [scheme for scheme in schemes if f"\n{scheme}://" not in text] == []
