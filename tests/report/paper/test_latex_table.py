"""A summary as LaTeX, compiled where there is a compiler."""

from __future__ import annotations

import shutil

import pytest

from bnkit.intervals.interval import Interval
from bnkit.report.objective_metric import ColumnObjective, Objective
from bnkit.report.paper.latex_table import escape, latex
from bnkit.report.paper.paper_summary import Difference, Summary, SummaryRow
from tests.child_processes import run

# All that LaTeX takes for something else, and what pdfLaTeX has no letter for.
NASTY = r"a_b & 50% of $x^2$ {~} #1 \end{table} <b> | β λ − × ± ² é"


def _summary(network="batch_norm", name="made", objective=None, setting=None):
    setting = {"lr": 0.1} if setting is None else setting
    half = Interval(0.9, 0.85, 0.95, 5)
    difference = Difference("no_batch_norm", Interval(0.02, -0.01, 0.05, 5), Interval(0.02, -0.03, 0.07, 5))
    rows = (
        SummaryRow("no_batch_norm", setting, half, 0, None, is_best=True),
        SummaryRow(network, setting, half, 2, difference, is_best=False),
        SummaryRow("group_norm", setting, None, 5, Difference("no_batch_norm", None)),
    )
    return Summary(name, f"{network} bought nothing.", objective or Objective(), tuple(setting), rows, pairs=3)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("no_batch_norm", r"no\_batch\_norm"),
        ("95 %, n = 5", r"95~\%, n~=~5"),
        ("mean = 5 % n", r"mean = 5~\% n"),
        ("−0.5", "$-$0.5"),
        ("β", r"$\beta$"),
        ("λ", r"$\lambda$"),
        (r"\end{table}", r"\textbackslash{}end\{table\}"),
        ("a~b^c", r"a\textasciitilde{}b\textasciicircum{}c"),
        ("é", "é"),
    ],
)
def test_what_latex_would_take_for_something_else_is_escaped(text, escaped):
    assert escape(text) == escaped


def test_the_table_has_the_rows_of_the_summary():
    lines = latex(_summary()).splitlines()
    assert lines[0] == r"% \usepackage{booktabs}"
    assert lines[1] == r"\begin{table}[t]" and lines[-1] == r"\end{table}"
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body == [
        r"no\_batch\_norm & 0.1* & 0.900 & 5 & 0 & -- \\",
        r" &  & {\scriptsize [0.850, 0.950]} &  &  &  \\[1pt]",
        r"batch\_norm & 0.1 & 0.900 & 5 & 2 & +2.0 \\",
        r" &  & {\scriptsize [0.850, 0.950]} &  &  & {\scriptsize [$-$1.0, +5.0]} \\",
        r" &  &  &  &  & {\scriptsize [$-$3.0, +7.0]} \\[1pt]",
        r"group\_norm & 0.1 & -- & 0 & 5 & -- \\[1pt]",
    ]
    assert r"\label{tab:made}" in lines


def test_the_name_of_an_experiment_is_a_label():
    assert r"\label{tab:val-acc-x-}" in latex(_summary(name="val/acc_x}"))


@pytest.mark.slow
def test_a_compiler_takes_it_and_it_fits_a_column(tmp_path):
    compiler = shutil.which("pdflatex")
    if compiler is None:
        pytest.skip("pdflatex is not installed, which compiles the table")
    if not run(["kpsewhich", "booktabs.sty"]).stdout:
        pytest.skip("booktabs is not installed, which the table needs: Debian's texlive-latex-recommended has it")
    preamble = r"\documentclass{article}\usepackage{booktabs}\setlength{\textwidth}{3.25in}"
    tables = [
        latex(_summary()),
        latex(_summary(NASTY, objective=ColumnObjective(NASTY, minimize=True, is_accuracy=False), setting={NASTY: 1})),
    ]
    for number, table in enumerate(tables):
        path = tmp_path / f"paper{number}.tex"
        path.write_text(f"{preamble}\n\\begin{{document}}\n{table}\n\\end{{document}}\n", encoding="utf-8")
        done = run([compiler, "-interaction=nonstopmode", "-halt-on-error", path.name], cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-2000:]
        if number == 0:
            assert "Overfull" not in done.stdout
