"""`asyafw check`: do the actors of an app fit together?"""

import typer

from asyafw.app import load_app
from asyafw.cli._errors import FAILED, say
from asyafw.cli._options import AsJson, Target
from asyafw.cli._output import print_json, write_line
from asyafw.cli._text import counted
from asyafw.exceptions import AppCheckError

__all__ = ["check"]


def check(target: Target, *, as_json: AsJson = False) -> None:
    """Verify that actors fit together, by names and types.

    Nothing is run. It prints a line for each problem and exits with 1 if there are any.
    """
    app = load_app(target)
    problems: tuple[str, ...] = ()
    try:
        app.check()
    except AppCheckError as error:
        problems = error.problems
    if as_json:
        print_json({"problems": problems})
    else:
        for problem in problems:
            write_line(problem.encode())
        size = f"{counted(len(app.actors), 'actor')} and {counted(len(app.flows), 'flow')}"
        say(f"{target}: {counted(len(problems), 'problem')} in {size}")
    if problems:
        raise typer.Exit(FAILED)
