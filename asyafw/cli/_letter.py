"""A dead letter, as a line or a sheet for people and as an object for programs."""

from typing import Any

from msgspec import json, structs

from asyafw.cli._text import age, counted, moment, printable
from asyafw.dead_letters import DeadLetter
from asyafw.envelope import Envelope, Route
from asyafw.exceptions import DecodeError

__all__ = ["as_row", "as_sheet", "as_summary", "as_whole"]

_LONGEST_ERROR = 80


def as_row(letter: DeadLetter, now: float) -> tuple[object, ...]:
    """Give id, actor, error, attempts, age and flow."""
    error, envelope = letter.error, letter.envelope
    return (
        letter.id,
        letter.actor,
        _one_line(letter),
        error.attempts if error else None,
        age(now - envelope.enqueued_at) if envelope else None,
        envelope.flow if envelope else None,
    )


def as_summary(letter: DeadLetter) -> dict[str, Any]:
    """Give what a list tells, for programs; times are seconds since the Unix epoch."""
    envelope, error = letter.envelope, letter.error
    told = ("type", "message", "actor", "attempts")
    return {
        "id": letter.id,
        "job": envelope.job if envelope else None,
        "flow": envelope.flow if envelope else None,
        "actor": letter.actor,
        "failed_at": envelope.enqueued_at if envelope else None,
        "error": {name: getattr(error, name) for name in told} if error else None,
        "replayable": letter.replayable,
    }


def as_whole(letter: DeadLetter) -> dict[str, Any]:
    """Give everything, for programs; bytes are in base64."""
    envelope = letter.envelope
    whole: dict[str, Any] = {"id": letter.id}
    if envelope is not None:
        whole |= {
            name: value
            for name, value in structs.asdict(envelope).items()
            if name not in ("payload", "extra", "enqueued_at", "v")
        }
        whole |= {"actor": letter.actor, "failed_at": envelope.enqueued_at}
    whole["replayable"] = letter.replayable
    if letter.original is not None:
        return {**whole, "original": letter.original}
    try:
        return {**whole, "payload": letter.payload()}
    except DecodeError as error:
        return {**whole, "payload_error": str(error)}


def as_sheet(letter: DeadLetter) -> str:
    """Give everything, for people."""
    envelope, error = letter.envelope, letter.error
    lines = [("id", letter.id)]
    if envelope is not None:
        lines += _facts(envelope)
    if error is not None:
        attempts = counted(error.attempts, "attempt")
        what = f"{error.type} in {error.actor} after {attempts}: {error.message}"
        lines.append(("error", what))
    sheet = [f"{name:<9} {value}" for name, value in lines]
    if error is not None and error.traceback:
        sheet += ["", error.traceback.rstrip()]
    return printable("\n".join([*sheet, "", *_content(letter)]))


def _facts(envelope: Envelope) -> list[tuple[str, str]]:
    facts = [
        ("job", envelope.job or "-"),
        ("flow", envelope.flow or "-"),
        ("route", _route(envelope.route)),
        ("hops", str(envelope.hops)),
        ("created", moment(envelope.created_at)),
        ("failed", moment(envelope.enqueued_at)),
    ]
    if envelope.deadline_at is not None:
        facts.append(("deadline", moment(envelope.deadline_at)))
    facts += [("header", f"{name}: {value}") for name, value in envelope.headers.items()]
    facts += [
        ("child", f"{fork.index + 1} of {fork.total}, to meet at {fork.at}")
        for fork in envelope.forks
    ]
    return facts


def _content(letter: DeadLetter) -> list[str]:
    if letter.original is not None:
        return [f"{len(letter.original)} bytes that are no message:", repr(letter.original)]
    if letter.envelope is not None and letter.envelope.claim is not None:
        claim = letter.envelope.claim
        return [f"payload of {claim.size_bytes} bytes in the store, under {claim.key}"]
    try:
        return ["payload:", json.format(json.encode(letter.payload())).decode()]
    except DecodeError as error:
        return [str(error)]


def _route(route: Route) -> str:
    return " → ".join([*route.prev, f"[{route.curr}]", *route.next])


def _one_line(letter: DeadLetter) -> str | None:
    if letter.error is None:
        return None if letter.original is None else "bytes that are no message"
    line = f"{letter.error.type}: {letter.error.message}".partition("\n")[0]
    return line if len(line) <= _LONGEST_ERROR else f"{line[: _LONGEST_ERROR - 1]}…"
