"""What a comparison gives to its caller."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys

import matplotlib
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import bnkit
from bnkit.errors import RecordError, SettingsError
from tests.child_processes import run
from tests.experiments import tiny_experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return bnkit.compare(
        tiny_experiment.NETWORKS, tiny_experiment.data(), out=tmp_path_factory.mktemp("r"), **tiny_experiment.EXPERIMENT
    )


def test_it_prints_its_answer_in_a_terminal_and_in_a_notebook(comparison):
    assert "batch_norm against no_batch_norm" in repr(comparison)
    page = comparison._repr_html_()
    assert comparison.answer.headline in page and page.count("<svg ") == 2 and page.count("<table>") == 1


def test_what_needs_no_extra_works_without_any(comparison):
    """The answer, the table of a paper and what a notebook shows: the base installation has neither pandas nor matplotlib."""
    code = (
        "import sys; sys.modules['pandas'] = sys.modules['matplotlib'] = None\n"
        f"import bnkit; comparison = bnkit.Comparison({str(comparison.folder.path)!r})\n"
        "print(comparison._repr_html_().count('<svg '), 'tabular' in comparison.to_latex(), comparison.to_csv()[:7])\n"
        "comparison.summary()"
    )
    done = run([sys.executable, "-c", code])
    assert done.stdout.strip() == "2 True network"
    assert done.stderr.splitlines()[-1].endswith(
        "a data frame needs pandas, which is not installed; pip install 'bnkit[frame]'"
    )


def test_the_summary_is_a_data_frame(comparison):
    frame = comparison.summary()
    assert list(frame["network"]) == ["no_batch_norm", "batch_norm"] * 2
    assert list(frame["lr"]) == [0.05, 0.05, 0.5, 0.5]
    at = comparison.answer.contrasts[0].by_learning_rate[0]
    assert frame["difference"][1] == pytest.approx(at.test.mean) and math.isnan(frame["difference"][0])
    assert frame["mean_low"][0] < frame["mean"][0] < frame["mean_high"][0]
    assert comparison.to_csv().splitlines()[0] == ",".join(frame.columns)
    assert comparison.answer.headline in comparison.to_markdown()
    assert r"no\_batch\_norm & 0.05" in comparison.to_latex()


def test_rows_and_data_frame_are_those_of_results_csv(comparison):
    with comparison.folder.results_file.open() as file:
        written = list(csv.DictReader(file))
    frame = comparison.data_frame()
    assert list(frame.columns) == list(written[0])
    assert [str(value) for value in frame["run_id"]] == [row["run_id"] for row in written]
    assert frame["test_accuracy"].tolist() == [float(row["test_accuracy"]) for row in written]


def test_a_diverged_loss_is_a_number_in_a_data_frame_and_null_in_json(tmp_path):
    grid = {"lr": [0.05, 1e30], "batch_size": [16]}
    comparison = bnkit.compare(
        tiny_experiment.NETWORKS, tiny_experiment.data(), grid, 1, epochs=2, validation=0.2, out=tmp_path / "r"
    )
    diverged = [index for index, row in enumerate(comparison.rows) if row["loss"] == "nan"]
    assert diverged
    frame = comparison.data_frame()
    assert frame["loss"].dtype == float
    assert [index for index, value in enumerate(frame["loss"].isna()) if value] == diverged
    results = json.loads(json.dumps(comparison.to_json(), allow_nan=False))["results"]
    assert [index for index, row in enumerate(results) if row["loss"] is None] == diverged


def test_records_that_another_process_has_written_since_are_read(comparison, tmp_path):
    """As under torchrun, where process 0 writes: the folder of another process still has the records of the beginning."""
    from bnkit.comparison.comparison_result import Comparison
    from bnkit.experiments.records.results_folder import ResultsFolder

    folder = ResultsFolder(tmp_path / "r")
    assert all(folder.record(run).last is None for run in comparison.plan)
    shutil.copytree(comparison.folder.path, tmp_path / "r")
    made = Comparison.of_plan(folder, comparison.plan, comparison._stored.of_last_call)
    assert made.records == comparison.records
    assert all(record.last is not None for record in made.records.values())


def _validation(comparison, run):
    return comparison.records[run.run_id].last.validation_accuracy


def test_the_best_run_is_chosen_on_the_validation_part(comparison):
    best = comparison.best("batch_norm")
    others = [run for run in comparison.plan if run.network.key == "batch_norm"]
    assert best in others
    assert _validation(comparison, best) == max(_validation(comparison, run) for run in others)
    with pytest.raises(SettingsError, match="no network is called 'bn'; expected one of no_batch_norm, batch_norm"):
        comparison.best("bn")


def test_load_gives_the_trained_network(comparison):
    best = comparison.best("batch_norm")
    model = comparison.load(best)
    (_, _), (inputs, targets) = tiny_experiment.data()
    mean, deviation = tiny_experiment.data()[0][0].mean(), tiny_experiment.data()[0][0].std(correction=0)
    with torch.no_grad():
        accuracy = (model((inputs - mean) / deviation).argmax(1) == targets).float().mean().item()
    assert not model.training
    assert accuracy == pytest.approx(comparison.records[best.run_id].last.test_accuracy)
    assert torch.equal(model.fc1.weight, comparison.load(best.number).fc1.weight)
    assert torch.equal(model.fc1.weight, comparison.load(best.run_id[:6]).fc1.weight)


@pytest.mark.parametrize("run", [0, 99, "", "zz"])
def test_a_run_that_is_not_there(comparison, run):
    with pytest.raises(SettingsError, match="names 0 runs; expected a number from 1 to 8, or a run id"):
        comparison.load(run)


def test_plot_draws_one_point_of_the_grid(comparison):
    with matplotlib.rc_context({"backend": "agg"}):
        axes = comparison.plot("loss", lr=0.05)
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    rows = [
        row for row in comparison.rows if row["lr"] == 0.05 and row["network"] == "no_batch_norm" and row["epoch"] == 3
    ]
    assert lines["no_batch_norm"][-1] == pytest.approx(sum(row["loss"] for row in rows) / len(rows))
    assert axes.get_ylabel() == "training loss"
    pyplot.close(axes.figure)


def test_plot_draws_in_given_axes(comparison):
    axes = Figure().subplots()
    assert comparison.plot("difference", ax=axes) is axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["each at its best lr", "lr 0.05", "lr 0.5"]


def test_a_figure_for_a_paper_is_written(comparison, tmp_path):
    written = comparison.savefig(tmp_path / "loss.svg", "loss", lr=0.05)
    assert written == tmp_path / "loss.svg" and "training loss" in written.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("speed",), {}), "no figure is called 'speed'; expected one of loss, accuracy"),
        ((("loss",), {}), "name 2 points of the grid; expected one: give a value for lr"),
        ((("loss",), {"lr": 7.0}), "name 0 points"),
        ((("loss",), {"speed": 1}), "unknown setting 'speed'"),
    ],
    ids=["figure", "too few settings", "no such point", "no such key"],
)
def test_what_plot_refuses(comparison, arguments, message):
    with pytest.raises(SettingsError, match=message):
        comparison.plot(*arguments[0], **arguments[1])


def test_a_folder_without_an_experiment(tmp_path):
    with pytest.raises(RecordError, match="holds no experiment.toml; expected a folder that bnkit compare wrote"):
        bnkit.Comparison(tmp_path)
