"""``bnkit claims``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Exit, Option, launch

from bnkit.cli.interruption import exit_after_interruption
from bnkit.cli.options import Workers, count_of, with_options
from bnkit.console import stderr_console, stdout_console
from bnkit.message_parts import plural


def claims(
    quick: Annotated[bool, Option("--quick", help="Small designs: two minutes on digits and two cores.")] = False,
    data: Annotated[str, Option(metavar="D", help="The data, as for `bnkit compare`; must have classes.")] = "digits",
    network: Annotated[
        str | None,
        Option(metavar="NAME | file.py:factory", help="Test the claims on this network instead of the course's."),
    ] = None,
    out: Annotated[Path, Option(metavar="DIR", help="The results folder.")] = Path("results/claims"),
    budget: Annotated[
        str,
        Option(
            metavar="X|TIME",
            help="X times as many images for every claim; or, with --until, a time such as 90s, 10m or 2h.",
        ),
    ] = "1",
    seeds: Annotated[
        int | None,
        Option(metavar="N", help="Seeds 0 to N − 1; 5 by default, 7 with --quick. Verdicts need at least 3."),
    ] = None,
    until: Annotated[
        str | None,
        Option(metavar="decided", help="Add seeds to the designs of open claims until every claim is decided."),
    ] = None,
    max_seeds: Annotated[int, Option(metavar="N", help="With --until, at most N seeds.")] = 50,
    only: Annotated[
        list[str] | None,
        Option(metavar="CLAIM", help="Only this claim, by number or name. May be given several times."),
    ] = None,
    workers: Workers = "auto",
    fresh: Annotated[bool, Option("--fresh", help="Delete the runs in the results folder first.")] = False,
    open_report: Annotated[bool, Option("--open", help="Open the report in a browser at the end.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the verdicts as JSON.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print only the answer, without progress and table.")] = False,
    verbose: Annotated[bool, Option("-v", "--verbose", help="Print a line for every epoch.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit claims --quick` tests which claims about batch normalization hold on handwritten digits.

    Each claim has a hypothesis stated in advance, a measure, pairs of runs over five seeds (seven with `--quick`), an interval and
    a verdict: holds, does not hold, not enough data. A second call trains only the missing runs.

    More examples:

    - `bnkit claims --data fashion-mnist` uses the full training budget
    - `bnkit claims --until decided --budget 2h` adds seeds to open verdicts, for two hours at most
    - `bnkit claims --network net.py:make --data mnist` tests the claims on your own network
    - `bnkit claims --only covariate-shift --only 10a` tests only these claims

    Exit status: 0 success, 1 some runs failed, 2 invalid input, 130 interrupted.
    """
    from bnkit.claims.evaluate_claims import evaluate_claims
    from bnkit.comparison.progress import progress_display

    try:
        with progress_display(
            stderr_console(), quiet=quiet or as_json, verbose=verbose, rewrite=with_options
        ) as display:
            verdicts = evaluate_claims(
                data,
                network,
                out,
                quick=quick,
                budget=budget,
                seeds=seeds,
                until=until,
                max_seeds=max_seeds,
                only=only or (),
                workers=count_of(workers),
                fresh=fresh,
                callbacks=[display],
                progress=False,
            )
    except KeyboardInterrupt:
        raise exit_after_interruption(out) from None
    console = stdout_console()
    if as_json:
        console.print_json(data=verdicts.to_json())
    else:
        if not quiet:
            console.print_table(verdicts.table())
            console.print()
        console.print_sentences(verdicts.answer)
    if not as_json and not quiet:
        console.print_sentences(f"\nreport, with the pages that make the claims: {out / 'claims.html'}")
    if open_report:
        launch((out / "claims.html").resolve().as_uri())
    if verdicts.failed:
        stderr_console().print_sentences(
            f"{plural(verdicts.failed, 'run')} failed; see the records in {out} for the reasons"
        )
        raise Exit(1)
