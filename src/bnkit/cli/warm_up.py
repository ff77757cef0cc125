"""``bnkit warm-up``."""

from __future__ import annotations

from typing import Annotated

from typer import Exit, Option

from bnkit.console import stderr_console, stdout_console


def warm_up(
    everything: Annotated[
        bool, Option("--all", help="Compile for every dtype and activation, not just float32 with ReLU.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print what was compiled as JSON.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit warm-up` compiles the fast loops of bnkit's layers now, so that the first training step does not wait for them.

    It takes some minutes, once per machine and version of bnkit. Without it, layers with kernel="auto" use PyTorch's kernel until
    a low-priority process has compiled their loops; BNKIT_COMPILE=off in the environment disables that.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bnkit.kernels.compilation.warm_up import wanted_requests, warm_up

    requests = wanted_requests(everything=everything)
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=stderr_console(), disable=quiet, transient=True) as progress:
        task = progress.add_task("compiling", total=len(requests))
        results = warm_up(requests, lambda request: progress.update(task, advance=1, description=str(request)))
    failed = [result for result in results if result.error]
    console = stdout_console()
    if as_json:
        console.print_json(data=[{"loops": str(request), "error": error} for request, error in results])
    else:
        console.print(
            f"{len(results) - len(failed)} of {len(results)} kinds of calls have their loops compiled on this machine"
        )
        for request, error in failed:
            console.print(f"not compiled: {request}: {error}", soft_wrap=True)
    if failed:
        raise Exit(1)
