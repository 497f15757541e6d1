import re
from typing import get_args

import pytest
from msgspec import Struct
from msgspec.structs import fields

from asyafw import Limits, RetryPolicy
from asyafw.envelope import Claim, Envelope, Failure
from asyafw.events import Event, Kind
from asyafw.memory._names import _OPTIONS
from asyafw.telemetry.metrics import _SPECS, BUCKETS_S, OUTCOMES
from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"


def named(page: str) -> set[str]:
    """What stands as code in the first column of the page's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", (DOCS / page).read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def names(*structs: type[Struct]) -> set[str]:
    return {field.encode_name for struct in structs for field in fields(struct)} - {""}


def test_every_field_of_an_envelope_is_told() -> None:
    assert named("reference/envelope.md") >= names(Envelope, Failure)


@pytest.mark.parametrize("struct", [Claim, Limits])
def test_the_page_of_the_envelope_names_the_fields_of(struct: type[Struct]) -> None:
    text = (DOCS / "reference/envelope.md").read_text()

    assert [name for name in names(struct) if not re.search(rf"\b{name}\b", text)] == []


def test_every_kind_and_field_of_an_event_is_told_and_no_other() -> None:
    logs = {"asyafw.events", "asyafw.control"}

    assert named("reference/events.md") == {*get_args(Kind), *names(Event), *logs}


def test_every_option_of_a_retry_policy_is_told() -> None:
    assert named("howto/handle-failures.md") >= names(RetryPolicy)


def test_every_option_of_memory_is_told() -> None:
    assert named("reference/urls.md") >= _OPTIONS.keys()


def test_the_reference_lists_every_metric() -> None:
    row = re.compile(r"^\| `(asyafw_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
    listed = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in row.findall((DOCS / "reference/metrics.md").read_text())
    }

    offered = {
        spec.name + ("_total" if spec.kind == "counter" else ""): (spec.kind, spec.labels)
        for spec in _SPECS
    }

    assert listed == offered


def test_the_reference_lists_every_outcome_and_bucket() -> None:
    reference = (DOCS / "reference/metrics.md").read_text()

    assert all(f"| `{outcome}` |" in reference for outcome in OUTCOMES)
    assert ", ".join(f"{bound:g}" for bound in BUCKETS_S) in reference
