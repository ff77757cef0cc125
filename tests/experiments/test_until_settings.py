"""The rule that an experiment may have, in Python and in a file."""

from __future__ import annotations

import tomllib

import pytest

from bnkit.duration import parse_duration
from bnkit.errors import SettingsError
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.plan import plan
from bnkit.experiments.until_settings import StoppingRule, stopping_rule
from tests.report.fake_runs import fake_plan

CONTENT = {"name": "t", "networks": ["mlp"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("decided", StoppingRule()),
        ({"margin": 0.5, "budget": "10m"}, StoppingRule(margin=0.5, budget=600.0)),
        ({"goal": "decided", "max_seeds": 9, "budget": 20}, StoppingRule(budget=20.0, max_seeds=9)),
    ],
)
def test_a_file_has_it_as_a_word_or_as_a_table(given, rule):
    experiment = parse_experiment({**CONTENT, "until": given}, "here")
    assert experiment.until == rule
    assert parse_experiment(tomllib.loads(experiment.to_toml()), "there") == experiment


def test_without_it_the_file_is_as_it_was():
    assert "until" not in parse_experiment(CONTENT, "here").to_toml()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("bored", "until.goal: expected 'decided', got 'bored'"),
        ({"margin": 0}, "until.margin: expected a number greater than 0"),
        ({"max_seeds": 2}, "until.max_seeds: expected a number greater than or equal to 3"),
        ({"budget": "soon"}, "until.budget: budget='soon'; expected a duration above 0, as 90s, 10m or 2h"),
    ],
)
def test_a_wrong_one_in_a_file_is_refused(given, message):
    with pytest.raises(SettingsError) as error:
        parse_experiment({**CONTENT, "until": given}, "here")
    assert message in str(error.value).replace("Input should be", "expected")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"until": "decided", "margin": "1"}, "margin='1'; expected a number above 0"),
        ({"until": "decided", "margin": True}, "margin=True; expected a number above 0"),
        ({"until": "decided", "max_seeds": 4.0}, "max_seeds=4.0; expected a whole number"),
        ({"until": None, "max_seeds": 4}, "`max_seeds` 4 says when seeds are enough; expected `until` decided"),
    ],
)
def test_a_wrong_one_in_python_is_refused(given, message):
    with pytest.raises(SettingsError, match=message):
        stopping_rule(**given)


def test_the_margin_is_points_of_accuracy_or_of_the_metric_as_it_is():
    assert StoppingRule(margin=2.0).largest_trifle(is_accuracy=True) == 0.02
    assert StoppingRule(margin=2.0).largest_trifle(is_accuracy=False) == 2.0
    assert StoppingRule().largest_trifle(is_accuracy=True) == 0.01
    assert StoppingRule().largest_trifle(is_accuracy=False) == 0.0


def test_the_runs_of_a_plan_have_the_ids_that_they_have_without_it():
    grown = fake_plan(seeds=1, until={"max_seeds": 4})
    assert [run.run_id for run in grown] == [run.run_id for run in fake_plan(seeds=4)]
    assert len(plan(grown.experiment)) == 8


def test_several_rates_need_something_to_choose_them_by():
    with pytest.raises(SettingsError, match="several learning rates and no validation part"):
        fake_plan(seeds=1, until="decided", grid={"lr": [0.1, 0.2]}, validation=0.0)


@pytest.mark.parametrize("networks", [("batch_norm",), ("lenet.batch_norm", "mlp.batch_norm")])
def test_a_network_alone_has_nothing_to_decide(networks):
    with pytest.raises(SettingsError, match=f"until: {', '.join(networks)} alone, so that there is nothing to decide"):
        fake_plan(networks, seeds=1, until="decided")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2h ", 7200), (20, 20), (0.5, 0.5)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1s", "1d", "1 h 2m", "0s", True, float("nan"), float("inf"), -3])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(SettingsError, match="expected a duration above 0, as 90s, 10m or 2h"):
        parse_duration(text)
