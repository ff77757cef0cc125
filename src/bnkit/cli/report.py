"""``bnkit report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option, launch

from bnkit.cli.options import All, with_options
from bnkit.console import stderr_console, stdout_console
from bnkit.errors import RecordError, SettingsError
from bnkit.message_parts import plural

if TYPE_CHECKING:
    from bnkit.comparison.comparison_result import Comparison
    from bnkit.report.results_of_plan import Results

Format = Literal["html", "latex", "markdown", "csv", "pdf", "svg"]
_PICTURES = ("pdf", "svg")
_BEST_RUNS = 5
# The rows of a table in a terminal; more would scroll the answer out of sight.
_MOST_ROWS = 40
_OTHERS = "--all shows them"


def report(
    folders: Annotated[
        list[Path],
        Argument(
            metavar="DIR...",
            help="Folders that `bnkit compare` wrote, or one of `bnkit claims`. DIR/calls/0002.toml is one call into DIR.",
        ),
    ],
    out: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="The file: of the page about several folders, by default report.html, or about one call, or of another format.",
        ),
    ] = None,
    form: Annotated[
        Format,
        Option(
            "--format",
            help="html: the page, and the answer in the terminal. latex, markdown, csv: a summary for a paper, on standard output. "
            "pdf, svg: a figure of column width, in a file.",
        ),
    ] = "html",
    figure: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="The figure of pdf or svg: difference (the default), or one over the epochs, such as test_accuracy or loss, each "
            "network at its best.",
        ),
    ] = None,
    open_report: Annotated[bool, Option("--open", help="Open it in a browser.")] = False,
    show_all: All = False,
    as_json: Annotated[bool, Option("--json", help="Print the answer as JSON.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit report results/quickstart` rewrites report.html and results.csv from the records, and prints the answer.

    It only reads records, also those of an interrupted comparison.

    `bnkit report before after --out change.html` compares the second folder with the first, network by network, for the runs
    in both: what did a change of the code, the machine or the number of threads do? Folders without common runs have separate
    answers, in the same figures.

    `bnkit report results/quickstart/calls/0001.toml` prints the answer of that call and writes calls/0001.html; report.html stays.

    `bnkit report results/quickstart --format latex` prints the table of a paper, and `--format pdf` writes its figure.

    `bnkit report results/claims` prints the verdicts, and rewrites claims.html, with all effects in one figure, and the report of
    every design.
    """
    from bnkit.claims.claims_folder import holds_claims
    from bnkit.comparison.compare_folders import merge_comparisons
    from bnkit.comparison.comparison_result import Comparison
    from bnkit.experiments.records.earlier_compare_calls import is_call
    from bnkit.report.answer_text import Answer

    if any(holds_claims(folder) for folder in folders):
        if form != "html" or figure is not None:
            raise SettingsError(f"--format {form} of a folder of bnkit claims; expected one that bnkit compare wrote")
        _report_claims(folders, out, open_report=open_report, as_json=as_json)
        return
    comparisons = [Comparison(folder) for folder in folders]
    if figure is not None and form not in _PICTURES:
        raise SettingsError(f"--figure {figure} with --format {form}; expected --format pdf or svg")
    if form != "html":
        if as_json:
            raise SettingsError(f"--json with --format {form}; expected one of them")
        _report_for_paper(comparisons, form, figure, out, open_report=open_report)
        return
    count = plural(sum(len(comparison.plan) for comparison in comparisons), "record")
    first, is_one = comparisons[0], len(comparisons) == 1
    if out is not None and is_one and not is_call(folders[0]):
        raise SettingsError(f"--out {out} with one folder, whose report is {first.report_file}; expected several")
    with stderr_console().status(f"reading {count}"):
        if out is not None or not is_one:
            results = first.results if is_one else merge_comparisons(comparisons)
            path = _write_page(comparisons, results, Path("report.html") if out is None else out)
        else:
            path = first.write_report() if is_call(folders[0]) else _write_all(first)
            results = first.results
    if as_json:
        stdout_console().print_json(data={"report": str(path), "answer": Answer.of(results).to_json()})
    else:
        print_results(results, path, show_all=show_all)
    if open_report:
        launch(path.resolve().as_uri())


def _report_for_paper(
    comparisons: list[Comparison], form: str, figure: str | None, out: Path | None, *, open_report: bool
) -> None:
    from bnkit.comparison.compare_folders import merge_comparisons
    from bnkit.report.paper.write_files import paper_text, write_picture, write_text

    results = comparisons[0].results if len(comparisons) == 1 else merge_comparisons(comparisons)
    written = out
    if form in _PICTURES:
        path_of = comparisons[0].picture_file if len(comparisons) == 1 else Path
        written = write_picture(results, form, figure, out, path_of)
    elif out is not None:
        write_text(paper_text(results, form), out)
    elif open_report:
        raise SettingsError(f"--open with --format {form}, which goes to standard output; expected --out FILE too")
    else:
        stdout_console().out(paper_text(results, form), end="", highlight=False)
    if written is not None:
        stdout_console().print_sentences(f"{form}: {written}")
    if written is not None and open_report:
        launch(written.resolve().as_uri())


def print_results(results: Results, report: Path, *, show_all: bool, only_answer: bool = False) -> None:
    """Print the answer, a row for each network and setting, the best runs or all of them, and where the report is."""
    from bnkit.report.answer_text import Answer
    from bnkit.report.contrasts.pairs_table import pairs_table
    from bnkit.report.tables import further_tables, runs_table, summary_table

    console = stdout_console()
    answer = Answer.of(results)
    console.print_sentences(with_options(str(answer)))
    if only_answer:
        return
    best = runs_table(results, None if show_all else _BEST_RUNS, _OTHERS)
    others = {**pairs_table(answer.contrasts), **further_tables(results)}
    tables = (summary_table(results), *others.values(), best)
    for table in (table for table in tables if table.rows):  # without a run, or without a batch norm, one may be empty
        console.print()
        console.print_table(table if show_all else table.first(_MOST_ROWS, _OTHERS))
    console.print_sentences(f"\nreport: {report}")


def _report_claims(folders: list[Path], out: Path | None, *, open_report: bool, as_json: bool) -> None:
    from bnkit.claims.claims_folder import holds_claims, read, write_page
    from bnkit.claims.verdict_table import table_of

    if len(folders) > 1 or out is not None:
        raise SettingsError(
            f"{next(folder for folder in folders if holds_claims(folder))} is a folder of bnkit claims; expected only that folder, "
            "without --out: its page is claims.html in it"
        )
    (folder,) = folders
    with stderr_console().status(f"reading {folder}"):
        path = write_page(folder, with_designs=True)
        content = read(folder)
    console = stdout_console()
    if as_json:
        console.print_json(data={"report": str(path), "claims": content})
    else:
        console.print_table(table_of(content["claims"]))
        console.print()
        console.print_sentences(content["answer"])
        console.print_sentences(f"\nreport, with the pages that make the claims: {path}")
    if open_report:
        launch(path.resolve().as_uri())


def _write_all(comparison: Comparison) -> Path:
    """Write ``report.html`` and ``results.csv`` of a folder; returns the path of the first."""
    with comparison.folder.writing():
        comparison.folder.write_results(comparison.plan)
        return comparison.write_report()


def _write_page(comparisons: list[Comparison], results: Results, path: Path) -> Path:
    """Write the page about ``results``, which are of all ``comparisons``, to ``path``."""
    from bnkit.experiments.records.overwrite_protection import refuse_foreign_page
    from bnkit.report.page import page

    refuse_foreign_page(path)
    try:
        asked = {each.folder.path.resolve().name: each.plan.experiment.to_toml() for each in comparisons}
        path.write_text(page(results, asked), encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}); expected a file that can: use --out"
        ) from error
    return path
