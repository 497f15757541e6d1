"""`asyafw submit`: hand jobs to the workers that run elsewhere."""

from typing import Annotated

import typer

from asyafw.app import load_app
from asyafw.cli._errors import DONE, FAILED
from asyafw.cli._jobs import Plan, input_type, lines_of, submit_all
from asyafw.cli._options import (
    AsJson,
    InFlight,
    Target,
    Timeout,
    TransportUrl,
    argument,
    names,
    option,
    seconds,
)
from asyafw.cli._payloads import STDIN
from asyafw.cli._process import run_loop
from asyafw.cli._results import Results
from asyafw.cli._transport import is_memory
from asyafw.exceptions import ConfigurationError

__all__ = ["submit"]


def submit(  # noqa: PLR0913 — a command has as many parameters as it has options
    target: Target,
    flow: Annotated[str | None, argument("FLOW", "The flow to submit to.")] = None,
    *,
    payload: Annotated[
        str,
        option(
            "--payload",
            "Its input: JSON, @file, or - for a value on each line of standard input.",
            metavar="JSON",
        ),
    ],
    transport: TransportUrl = "memory://",
    route: Annotated[
        str | None,
        option("--route", "Visit these actors, instead of a flow: a,b.", metavar="NAMES"),
    ] = None,
    wait: Annotated[bool, option("--wait", "Wait for the results, and print them.")] = False,
    timeout: Timeout = None,
    header: Annotated[
        list[str] | None,
        option("--header", "A header that travels along; repeat for more.", metavar="NAME=VALUE"),
    ] = None,
    deadline: Annotated[
        float | None,
        option("--deadline", "Seconds that the job may take.", metavar="S", callback=seconds),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        option("--idempotency-key", "The same within a day is the same job.", metavar="KEY"),
    ] = None,
    in_flight: InFlight = 64,
    as_json: AsJson = False,
) -> None:
    """Submit jobs to workers that run elsewhere.

    It prints their ids, or with --wait their results, in the order of the input,
    and exits with 1 if a job failed, or did not end within --timeout.
    """
    chosen = flow if route is None else names(route)
    if not chosen or (flow is None) == (route is None):
        raise typer.BadParameter("name a flow, or a route by --route a,b")
    if idempotency_key is not None and payload == STDIN:
        raise typer.BadParameter("--idempotency-key is for one job, not for --payload -")
    if is_memory(transport):
        raise ConfigurationError(
            f"{transport} is inside this process, where nobody would do the job: "
            "name the workers' broker by --transport URL or ASYAFW_TRANSPORT, "
            "or do everything in one process by `asyafw run`"
        )
    app = load_app(target)
    type_ = input_type(app, chosen)
    plan = Plan(
        chosen,
        type=type_,
        in_flight=in_flight,
        wait=wait,
        timeout_s=timeout,
        headers=dict(map(_header, header or ())),
        deadline_s=deadline,
        idempotency_key=idempotency_key,
    )
    lines, results = lines_of(payload, type_), Results(as_json=as_json)

    async def main() -> int:
        async with app.connect(transport) as client:
            await submit_all(client, plan, lines, results)
        return FAILED if results.failures else DONE

    raise typer.Exit(run_loop(main))


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise typer.BadParameter(f"--header takes NAME=VALUE, not {text!r}")
    return name, value
