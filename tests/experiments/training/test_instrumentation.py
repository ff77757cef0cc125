"""Looking inside changes no figure, is recorded beside them, and goes on where a run goes on."""

from __future__ import annotations

import pytest
from torch.nn import functional

from bnkit.comparison.compare import compare
from bnkit.data.user_data import make_data_set
from bnkit.errors import DataError
from bnkit.experiments.records.run_epochs_file import RecordFile
from tests.experiments import tiny_experiment

_WATCHED = {"observe": 2, "landscape": 3, "evaluate_training": True}


def _compare(tmp_path, name, **changes):
    from bnkit.comparison.compare import run_experiment
    from bnkit.experiments.experiment import parse_experiment
    from bnkit.experiments.networks import from_factories

    content = {"name": name, "networks": ["x"], **tiny_experiment.EXPERIMENT, **changes}
    return run_experiment(
        parse_experiment(content, "here"), tmp_path / name,
        networks=from_factories(tiny_experiment.NETWORKS), data=make_data_set(tiny_experiment.data(), "small"),
    )  # fmt: skip


@pytest.mark.slow
def test_the_figures_are_those_of_runs_without_instrumentation(tmp_path):
    figures = [
        tiny_experiment.figures(_compare(tmp_path, "plain")),
        tiny_experiment.figures(_compare(tmp_path, "watched", **_WATCHED)),
    ]
    ids = [{row.pop("run_id") for row in rows} for rows in figures]
    assert figures[0] == figures[1]
    assert ids[0].isdisjoint(ids[1])  # runs of their own, so that nothing is missing from an earlier call


@pytest.mark.slow
def test_what_was_seen_is_recorded_at_its_steps_and_read_back(tmp_path):
    watched = _compare(tmp_path, "watched", **_WATCHED)
    for run in watched.plan:
        record = RecordFile(watched.folder.run_folder(run) / "record.jsonl").read()
        # 72 examples in batches of 16: 5 steps an epoch, 15 in all.
        assert [epoch.steps for epoch in record.epochs] == [5, 10, 15]
        assert [entry["step"] for epoch in record.epochs for entry in epoch.layers] == [0, 2, 4, 6, 8, 10, 12, 14]
        assert [entry["step"] for epoch in record.epochs for entry in epoch.landscape] == [0, 3, 6, 9, 12]
        assert [epoch.backward_bytes is not None for epoch in record.epochs] == [True, False, False]
        assert {"fc1", "act", "out"} <= record.epochs[0].layers[0]["layers"].keys()


@pytest.mark.slow
def test_the_training_part_is_evaluated_with_the_weights_at_the_end_of_the_epoch(tmp_path):
    watched = _compare(tmp_path, "watched", **_WATCHED)
    for run in watched.plan:
        epochs = watched.records[run.run_id].epochs
        model = watched.load(run).eval()
        part = watched.data(run).train
        loss = functional.cross_entropy(model(part.inputs), part.targets).item()
        assert epochs[-1].training_loss == pytest.approx(loss)
        right = model(part.inputs).argmax(1) == part.targets
        assert epochs[-1].training_accuracy == pytest.approx(right.double().mean().item())
        assert epochs[-1].training_loss != pytest.approx(epochs[-1].loss)
        assert all(epoch.training_loss is not None for epoch in epochs)
    unwatched = _compare(tmp_path, "plain")
    assert all(epoch.training_loss is None for epoch in unwatched.records[unwatched.plan.runs[0].run_id].epochs)


@pytest.mark.slow
def test_a_run_that_goes_on_has_seen_what_one_that_was_not_interrupted_has(tmp_path):
    whole = _compare(tmp_path, "whole", **_WATCHED)
    first = whole.plan.runs[1]

    from bnkit.experiments.callbacks import Callback

    class Leaving(Callback):
        def epoch_done(self, run, epoch):
            if run.run_id == first.run_id and epoch.epoch == 2:
                raise KeyboardInterrupt

    from bnkit.comparison.compare import run_experiment
    from bnkit.experiments.experiment import parse_experiment
    from bnkit.experiments.networks import from_factories

    content = {"name": "parts", "networks": ["x"], **tiny_experiment.EXPERIMENT, **_WATCHED}
    given = {
        "networks": from_factories(tiny_experiment.NETWORKS),
        "data": make_data_set(tiny_experiment.data(), "small"),
    }
    with pytest.raises(KeyboardInterrupt):
        run_experiment(parse_experiment(content, "here"), tmp_path / "parts", observer=Leaving(), **given)
    parts = run_experiment(parse_experiment(content, "here"), tmp_path / "parts", **given)
    seen = [[(epoch.layers, epoch.landscape) for epoch in c.records[first.run_id].epochs] for c in (whole, parts)]
    assert seen[0] == seen[1]


def test_a_part_of_the_data_is_drawn_once_and_named(tmp_path):
    data = make_data_set(tiny_experiment.data(), "small")
    reduced = data.reduced(30, 0)
    assert (len(reduced.train), len(reduced.test)) == (30, 30)
    assert (reduced.train.inputs == data.reduced(30, 0).train.inputs).all()
    assert reduced.train.targets.bincount().min() >= 5  # drawn, not the first
    assert len({data.digest, reduced.digest, data.reduced(31, 0).digest, data.reduced(30, 20).digest}) == 4
    assert data.reduced(0, 0) is data
    with pytest.raises(DataError, match=r"31 examples of the test part of small, which has 30"):
        data.reduced(0, 31)


@pytest.mark.slow
def test_compare_observes(tmp_path):
    comparison = compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        {"lr": [0.05], "batch_size": 16},
        1,
        epochs=1,
        validation=0.2,
        observe=2,
        out=tmp_path / "c",
    )
    assert all(record.epochs[0].layers for record in comparison.records.values())
