"""`asyafw actors`: what an app consists of."""

from re import compile as regex
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from asyafw._actor import Actor
from asyafw.app import App, load_app
from asyafw.cli._options import AsJson, Target
from asyafw.cli._output import print_json, print_table

__all__ = ["actors"]

_MODULES = regex(r"\b(?:\w+\.)+(?=\w)")


def actors(target: Target, *, as_json: AsJson = False) -> None:
    """List actors, how they run, and their flows."""
    app = load_app(target)
    described = [_described(each, app) for each in app.actors.values()]
    if as_json:
        print_json(described)
        return
    columns = ("actor", "form", "types", "concurrency", "timeout", "attempts", "flows")
    print_table(columns, map(_row, described))


def _described(actor: Actor[..., Any], app: App) -> dict[str, Any]:
    return {
        "actor": actor.name,
        "form": _form(actor),
        "input": _type_name(actor.input_type),
        "output": _type_name(actor.output_type),
        "concurrency": actor.concurrency,
        "timeout_s": actor.timeout_s,
        "max_attempts": actor.retry.max_attempts,
        "on_exhausted": actor.on_exhausted,
        "may_route_to": actor.may_route_to,
        "flows": [flow for flow, route in app.flows.items() if actor.name in route],
    }


def _row(described: dict[str, Any]) -> tuple[object, ...]:
    timeout_s = described["timeout_s"]
    return (
        described["actor"],
        ", ".join(described["form"]),
        f"{described['input']} → {described['output']}",
        described["concurrency"],
        None if timeout_s is None else f"{timeout_s:g} s",
        described["max_attempts"],
        ", ".join(described["flows"]) or None,
    )


def _form(actor: Actor[..., Any]) -> list[str]:
    """Tell how an actor is called, in the words of its options."""
    form: list[str] = ["async" if actor.signature.is_async else actor.executor or "thread"]
    if actor.signature.yields:
        form.append("fan-out")
    if actor.batch is not None:
        form.append(f"batch of {actor.batch.max_size}")
    if actor.join is not None:
        form.append("join")
    return form


def _type_name(annotation: Any) -> str:
    if annotation in (None, NoneType):
        return "None"
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_type_name, get_args(annotation)))
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__qualname__
    return _MODULES.sub("", str(annotation))
