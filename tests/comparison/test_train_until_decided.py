"""Training until a comparison is decided: whatever ends a call, and however many workers there are, the figures are the same."""

from __future__ import annotations

import json

import pytest

import bnkit
from bnkit.experiments.callbacks import EpochDone, LookTaken, PlanStarted, RunStarted, SeedsEnded
from bnkit.experiments.records.run_epochs_file import Status
from tests.cli.cli_runner import invoke
from tests.experiments import tiny_experiment
from tests.experiments.faulty_networks import FaultyNetwork

pytestmark = pytest.mark.slow

GRID = {"lr": [0.001, 0.05, 0.5], "batch_size": [16]}
RULE = {"until": "decided", "margin": 4.0, "max_seeds": 6}


def _compare(out, networks=tiny_experiment.NETWORKS, **changes):
    settings = {"grid": GRID, "epochs": 2, "validation": 0.2, "threads": 1, **RULE, **changes}
    return bnkit.compare(networks, tiny_experiment.data(), out=out, **settings)


def _runs(comparison):
    return [(run.number, run.network.key, run.settings.lr, run.seed) for run in comparison.plan]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    events = []
    comparison = _compare(tmp_path_factory.mktemp("r") / "r", observer=events.append)
    return comparison, events


def test_runs_are_numbered_as_they_were_asked_for_and_rates_are_dropped(undisturbed):
    comparison, events = undisturbed
    runs = _runs(comparison)
    assert [number for number, *_ in runs] == list(range(1, len(runs) + 1))
    assert {lr for _, _, lr, seed in runs if seed == 0} == set(GRID["lr"])
    assert {network: len({lr for _, name, lr, seed in runs if name == network and seed > 2}) for network in ("no_batch_norm", "batch_norm")} == {"no_batch_norm": 1, "batch_norm": 1}  # fmt: skip
    begun = [event.run.number for event in events if isinstance(event, RunStarted)]
    assert begun == [number for number, *_ in runs]
    assert len(runs) < 6 * 6


def test_the_events_tell_of_every_look(undisturbed):
    comparison, events = undisturbed
    plans = [len(event.plan) for event in events if isinstance(event, PlanStarted)]
    assert plans == sorted(plans)
    looks = [event.contrast for event in events if isinstance(event, LookTaken)]
    assert [len(contrast.looks) for contrast in looks] == list(range(1, len(looks) + 1))
    (ended,) = (event for event in events if isinstance(event, SeedsEnded))
    assert ended.contrasts == (looks[-1],)
    assert ended.reason == comparison.results.growth.reason
    assert comparison.results.growth.contrasts == ended.contrasts


def test_a_reader_sees_what_was_asked_for_and_nothing_is_missing(undisturbed, capsys):
    comparison, _ = undisturbed
    again = bnkit.Comparison(comparison.folder.path)
    assert _runs(again) == _runs(comparison)
    assert again.answer.incomplete == 0
    assert {row["run"] for row in again.rows} == {number for number, *_ in _runs(comparison)}
    (contrast,) = again.to_json()["answer"]["contrasts"]
    looks = comparison.results.growth.contrasts[0].looks
    assert [look["pairs"] for look in contrast["looks"]["looks"]] == [look.pairs for look in looks]
    assert contrast["margin"] == 0.04
    best = again.answer.contrasts[0].best.decisive
    assert (best.n, best.low, best.high) == (looks[-1].pairs, looks[-1].low, looks[-1].high)
    said = invoke(capsys, "report", str(comparison.folder.path), "--json")
    assert json.loads(said.out)["answer"]["contrasts"][0]["looks"] == contrast["looks"]


def test_figures_do_not_depend_on_the_workers(undisturbed, tmp_path):
    parallel = _compare(tmp_path / "r", workers=2)
    assert _runs(parallel) == _runs(undisturbed[0])
    assert tiny_experiment.figures(parallel) == tiny_experiment.figures(undisturbed[0])


@pytest.mark.parametrize("epochs", [1, 13, 26])
def test_a_call_that_was_interrupted_goes_on_to_the_same_figures(undisturbed, tmp_path, epochs):
    class Interrupt:
        done = 0

        def __call__(self, event):
            if isinstance(event, EpochDone):
                self.done += 1
                if self.done == epochs:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _compare(tmp_path / "r", observer=Interrupt())
    assert bnkit.Comparison(tmp_path / "r").answer.incomplete > 0
    assert tiny_experiment.figures(_compare(tmp_path / "r")) == tiny_experiment.figures(undisturbed[0])


def test_what_is_recorded_is_not_trained_again(undisturbed):
    comparison, _ = undisturbed
    events = []
    again = _compare(comparison.folder.path, observer=events.append)
    assert not [event for event in events if isinstance(event, RunStarted)]
    assert str(again.answer) == str(comparison.answer)


def test_a_budget_ends_the_growth_between_rounds_and_the_next_call_goes_on(undisturbed, tmp_path):
    first = _compare(tmp_path / "r", budget=1e-9)
    assert {seed for *_, seed in _runs(first)} == {0}
    for read in (first, bnkit.Comparison(tmp_path / "r")):
        assert (read.results.growth.reason, read.answer.incomplete) == ("budget", 0)
        assert "The budget of 1e-09 s ended before every comparison was decided" in str(read.answer)
    assert len(_compare(tmp_path / "r", budget=1e-9).plan) > len(first.plan)
    assert tiny_experiment.figures(_compare(tmp_path / "r")) == tiny_experiment.figures(undisturbed[0])


def test_what_an_earlier_call_trained_counts_only_where_the_rule_asks_for_it(undisturbed, tmp_path):
    grid = bnkit.compare(
        tiny_experiment.NETWORKS, tiny_experiment.data(), GRID, seeds=4, epochs=2, validation=0.2, threads=1, out=tmp_path
    )  # fmt: skip
    events = []
    grown = _compare(tmp_path, observer=events.append)
    trained = [event.run.run_id for event in events if isinstance(event, RunStarted)]
    assert not set(trained) & {run.run_id for run in grid.plan}
    assert tiny_experiment.figures(grown) == tiny_experiment.figures(undisturbed[0])
    assert "of earlier calls, not counted here: the rule that adds seeds did not ask for them" in str(grown.answer)


def test_a_run_that_fails_is_given_up_for_this_call_and_tried_by_the_next(tmp_path):
    left = []

    def fails():
        if left:
            raise RuntimeError(left.pop())

    networks = {"no_batch_norm": tiny_experiment.plain, "batch_norm": lambda: FaultyNetwork(fails)}
    undisturbed = _compare(tmp_path / "undisturbed", networks)
    left.append("once")
    first = _compare(tmp_path / "r", networks)
    failed = [run for run in first.plan if first.records[run.run_id].status is Status.FAILED]
    assert [run.number for run in failed] == [2]
    assert first.results.growth.reason
    again = _compare(tmp_path / "r", networks)
    assert again.records[failed[0].run_id].status is Status.FINISHED
    assert tiny_experiment.figures(again) == tiny_experiment.figures(undisturbed)


def test_a_folder_that_grew_says_so_and_its_intervals_allow_for_it(tmp_path):
    def grown(*counts):
        out = tmp_path / "-".join(map(str, counts))
        for seeds in counts:
            comparison = bnkit.compare(
                tiny_experiment.NETWORKS, tiny_experiment.data(), {"lr": [0.05]}, seeds, epochs=1, validation=0, out=out
            )
        return comparison

    looked_often, looked_once = grown(3, 4, 6), grown(6)
    assert "Looked at after 3, 4 and 6 seeds: the intervals allow for that" in str(looked_often.answer)
    assert "Looked at" not in str(looked_once.answer)
    often, once = (comparison.answer.contrasts[0].best.test for comparison in (looked_often, looked_once))
    assert often.mean == once.mean
    assert often.high - often.low > once.high - once.low
