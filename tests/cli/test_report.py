"""``bnkit report``: what a paper takes over, on standard output or in a file."""

from __future__ import annotations

import csv
import io
import shutil

import pytest

import bnkit
from tests.cli.cli_runner import invoke
from tests.experiments import tiny_experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        {"lr": [0.05], "batch_size": [16]},
        2,
        epochs=2,
        out=tmp_path_factory.mktemp("r") / "tiny",
    )


def _report(capsys, comparison, *options):
    return invoke(capsys, "report", str(comparison.folder.path), *options)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("latex", bnkit.Comparison.to_latex),
        ("markdown", bnkit.Comparison.to_markdown),
        ("csv", bnkit.Comparison.to_csv),
    ],
)
def test_texts_go_to_standard_output_or_into_a_file(capsys, comparison, tmp_path, form, expected):
    done = _report(capsys, comparison, "--format", form)
    assert (done.status, done.out, done.err) == (0, expected(comparison), "")
    done = _report(capsys, comparison, "--format", form, "--out", str(tmp_path / "table"))
    assert done.out.startswith(f"{form}: ")
    assert (tmp_path / "table").read_text(encoding="utf-8") == expected(comparison)


def test_the_csv_has_a_row_a_network(capsys, comparison):
    rows = list(csv.DictReader(io.StringIO(_report(capsys, comparison, "--format", "csv").out)))
    assert [row["network"] for row in rows] == ["no_batch_norm", "batch_norm"]


@pytest.mark.parametrize(
    ("options", "name", "text"),
    [
        (("--format", "pdf"), "difference.pdf", "%PDF"),
        (("--format", "svg"), "difference.svg", "batch_norm − no_batch_norm"),
        (("--format", "svg", "--figure", "loss"), "loss.svg", "training loss"),
    ],
)
def test_figures_go_into_the_folder(capsys, comparison, options, name, text):
    done = _report(capsys, comparison, *options)
    assert (done.status, done.out) == (0, f"{options[1]}: {comparison.folder.path / name}\n")
    assert text in (comparison.folder.path / name).read_text(errors="replace")


def test_a_figure_goes_where_it_is_told_to(capsys, comparison, tmp_path):
    done = _report(capsys, comparison, "--format", "pdf", "--out", str(tmp_path / "my.pdf"))
    assert done.status == 0 and (tmp_path / "my.pdf").exists()


def test_several_folders_are_one_table(capsys, comparison, tmp_path):
    other = bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        {"lr": [0.5], "batch_size": [16]},
        1,
        epochs=1,
        out=tmp_path / "other",
    )
    done = _report(capsys, comparison, str(other.folder.path), "--format", "markdown")
    assert "| tiny.batch_norm |" in done.out and "| other.batch_norm |" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--figure", "loss"), "--figure loss with --format html; expected --format pdf or svg"),
        (("--format", "csv", "--json"), "--json with --format csv; expected one of them"),
        (("--format", "latex", "--open"), "--open with --format latex, which goes to standard output"),
        (("--format", "pdf", "--figure", "los"), "no figure is called 'los'"),
        (("--format", "pdf", "--out", "a.svg"), "a.svg ends in '.svg'; expected .pdf"),
        (("--format", "csv", "--out", "no/such/a.csv"), "cannot be written (No such file or directory)"),
        (("--format", "png"), "--format: expected one of 'html', 'latex'"),
    ],
)
def test_what_is_refused(capsys, comparison, options, message):
    done = _report(capsys, comparison, *options)
    assert done.status == 2
    assert message in done.err and done.out == ""


def test_the_file_of_a_call_reports_that_call_and_leaves_the_report_of_the_folder(capsys, tmp_path):
    for epochs in (1, 2):
        bnkit.compare(
            tiny_experiment.NETWORKS,
            tiny_experiment.data(),
            {"lr": [0.05], "batch_size": [16]},
            1,
            epochs=epochs,
            out=tmp_path / "r",
        )
    before = [(tmp_path / "r" / name).read_bytes() for name in ("report.html", "results.csv")]
    call = tmp_path / "r" / "calls" / "0001.toml"
    done = invoke(capsys, "report", str(call))
    assert done.status == 0 and done.out.endswith(f"report: {call.with_suffix('.html')}\n")
    assert "epochs 2 in place of 1 (calls/0002.toml)" in done.out
    assert "epochs = 1" in call.with_suffix(".html").read_text(encoding="utf-8")
    assert [(tmp_path / "r" / name).read_bytes() for name in ("report.html", "results.csv")] == before
    other = tmp_path / "call.html"
    assert invoke(capsys, "report", str(call), "--out", str(other)).status == 0 and other.exists()
    # The last line has the digest of what the page shows; charts have ids that differ each time.
    by_command = call.with_suffix(".html").read_text(encoding="utf-8").splitlines()[-1]
    comparison = bnkit.Comparison(call)
    assert comparison.write_report() == comparison.report_file == call.with_suffix(".html")
    assert call.with_suffix(".html").read_text(encoding="utf-8").splitlines()[-1] == by_command
    assert [(tmp_path / "r" / name).read_bytes() for name in ("report.html", "results.csv")] == before
    assert comparison.to_json()["report"] == str(call.with_suffix(".html"))
    assert repr(comparison).startswith(f"Comparison({str(call)!r}): 2 runs")
    done = invoke(capsys, "report", str(call), "--format", "pdf")
    assert (done.status, done.out) == (0, f"pdf: {call.with_name('0001-difference.pdf')}\n")
    assert not (tmp_path / "r" / "difference.pdf").exists()


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_only_a_picture_of_bnkit_is_replaced_unless_the_file_is_given(capsys, comparison, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(comparison.folder.path, tmp_path / "r")
    command = ("report", str(folder), "--format", form)
    picture = folder / f"difference.{form}"
    picture.unlink(missing_ok=True)
    assert [invoke(capsys, *command).status for _ in range(2)] == [0, 0]  # the second time over the first
    picture.write_text("mine")
    done = invoke(capsys, *command)
    assert (done.status, done.err) == (
        2,
        f"error: {picture} is there and is not a picture of bnkit's; expected another file: use --out\n",
    )
    assert picture.read_text() == "mine"
    assert invoke(capsys, *command, "--out", str(picture)).status == 0 and picture.read_bytes() != b"mine"


@pytest.mark.parametrize("path", ["report.html", "runs", "calls", ".."])
def test_a_path_in_or_around_a_results_folder_is_refused_with_its_name(capsys, comparison, path):
    folder = comparison.folder.path
    done = invoke(capsys, "report", str(folder / path if path != ".." else folder.parent))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.endswith(f"expected a folder that bnkit compare wrote, as {folder}\n")


@pytest.mark.parametrize("width", ["40", "80", None])
def test_a_folder_without_a_finished_run_has_no_empty_tables(capsys, comparison, tmp_path, monkeypatch, width):
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", width)
    folder = shutil.copytree(comparison.folder.path, tmp_path / "r")
    shutil.rmtree(folder / "runs")
    done = invoke(capsys, "report", str(folder))
    assert (done.status, done.err) == (0, "")
    assert "best first" not in done.out  # no run has begun
    assert "4 runs of the plan have not ended, and are not in the figures." in done.out
    table = done.out.partition("Test accuracy at the end")[2].partition("report:")[0]
    assert " ".join(table.split()).count("no_batch_norm 0.05 – – 0") == 1
    assert max(map(len, table.splitlines())) <= int(width or 120)
