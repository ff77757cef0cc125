"""The entry point, and the mapping from exceptions to exit statuses."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

from rich.console import Console
from rich.text import Text
from typer import Abort, Exit, Option, Typer, TyperException
from typer.main import get_command

import bnkit
from bnkit.cli import (
    add,
    check,
    claims,
    compare,
    convert,
    data,
    explain,
    fold,
    recalibrate,
    recipes,
    remove,
    report,
    summary,
    warm_up,
)
from bnkit.cli.command_base import Command, expand_arguments
from bnkit.cli.options import with_options
from bnkit.console import OutputError, standard_streams, stdout_console
from bnkit.errors import BnkitError
from bnkit.message_parts import validation_message
from bnkit.openmp_settings import PASSIVE_WAITING

app = Typer(
    name="bnkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        # Without a default it would be None, and Typer would load pydantic to convert it, even for the help of a command.
        "default_map": {"help": False},
    },
)
app.command(
    "compare", cls=Command, short_help="Train networks with and without batch norm, and report the difference."
)(compare.compare)
app.command(
    "claims", cls=Command, short_help="Test which claims about batch norm hold, for the course's networks or yours."
)(claims.claims)
app.command("report", cls=Command, short_help="Rewrite the report of a results folder.")(report.report)
app.command("check", cls=Command, short_help="Find mistakes in how a network uses batch norm.")(check.check)
app.command("explain", cls=Command, short_help="Explain a rule of `bnkit check`.")(explain.explain)
app.command(
    "summary", cls=Command, short_help="Measure the cost of each batch norm of a network, and possible savings."
)(summary.summary)
app.command("add", cls=Command, short_help="Add batch norm to a network.")(add.add)
app.command("remove", cls=Command, short_help="Remove batch norm from a network.")(remove.remove)
app.command(
    "convert",
    cls=Command,
    short_help="Replace a network's batch norms with another kind: bnkit's, PyTorch's, group norm.",
)(convert.convert)
app.command("fold", cls=Command, short_help="Fold batch norm for inference, and check the result.")(fold.fold)
app.command("recalibrate", cls=Command, short_help="Replace the moving averages with the statistics of the data.")(
    recalibrate.recalibrate
)
app.command("data", cls=Command, short_help="List or fetch the data sets.")(data.data)
app.command("warm-up", cls=Command, short_help="Compile the fast loops now, so that training does not wait for them.")(
    warm_up.warm_up
)
app.command("recipes", cls=Command, short_help="List the built-in comparisons.")(recipes.recipes)

# 128 + SIGINT and 128 + SIGPIPE, as a shell reports them.
_INTERRUPTED, _PIPE_CLOSED = 130, 141


def _print_version(asked: bool) -> None:
    if asked:
        stdout_console().print(f"bnkit {bnkit.__version__}")
        raise Exit


@app.callback()
def _bnkit(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """`bnkit compare` trains a small network with and without batch normalization, and reports the difference.

    It takes a minute or two, and the answer has error bars. Each command's --help starts with an example.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with status 0, 1 if runs failed, or 2 for invalid input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # torch reads it when it is loaded, later
        os.environ.setdefault(*PASSIVE_WAITING)
    with standard_streams(until_exit=arguments is None):
        try:
            status = _status_of(words)
            sys.stdout.flush()
        except OutputError as error:
            status = _PIPE_CLOSED if error.is_broken_pipe else 1
            if not error.is_broken_pipe:
                _print_error(
                    f"{error}; expected a writable one: redirect it elsewhere, or free some space, and call again"
                )
        sys.exit(status)


def _status_of(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    debug = "--debug" in arguments
    try:
        status = get_command(app).main(
            args=_spread_grid(expand_arguments(arguments)), prog_name="bnkit", standalone_mode=False
        )
        return status if isinstance(status, int) else 0
    except Exit as end:
        return end.exit_code
    except (Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except TyperException as error:
        if error.format_message():
            command = getattr(getattr(error, "ctx", None), "command_path", "bnkit")
            _print_error(_usage_message(error), f"see {command} --help")
        return 2
    except BnkitError as error:
        if debug:
            traceback.print_exc()
        _print_error(str(error))
        return 2


def _usage_message(error: TyperException) -> str:
    """Typer's message, in the form of the others; its own about a value omits what arrived."""
    from pydantic import ValidationError

    message, cause = error.format_message(), error.__cause__
    if not isinstance(cause, ValidationError):
        return message
    option = re.match("Invalid value for '?([^':]*)'?: ", message)
    return f"{option[1] if option else message}: {validation_message(cause.errors()[0])}"


def _print_error(message: str, hint: str = "") -> None:
    """Print one line on standard error, regardless of the terminal's width."""
    line = with_options(" ".join(message.split()))
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), line, f" ({hint})" if hint else ""))


def _spread_grid(arguments: Sequence[str]) -> list[str]:
    """``--grid a=1,2 b=3`` as ``--grid a=1,2 --grid b=3``."""
    spread: list[str] = []
    in_grid = False
    for argument in arguments:
        is_pair = re.match(r"^[A-Za-z_]+=", argument) is not None
        if in_grid and is_pair and spread[-1] != "--grid":
            spread.append("--grid")
        in_grid = argument == "--grid" or (in_grid and is_pair)
        spread.append(argument)
    return spread


if __name__ == "__main__":
    main()
