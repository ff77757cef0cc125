"""`bnkit compare --until decided`: what is refused, what is planned, and what a log says."""

from __future__ import annotations

import json

import pytest

from bnkit.cli.compare import _experiment, _seeds
from bnkit.experiments.until_settings import StoppingRule
from tests.cli.cli_runner import TINY_EXPERIMENT, invoke

TINY = ("compare", f"{TINY_EXPERIMENT}:networks", "--data", f"{TINY_EXPERIMENT}:data", "--grid", "lr=0.05,0.5", "--batch-size", "16")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--until", "foo"), "--until foo; expected decided"),
        (("--until", "decided", "--margin", "0"), "--margin 0.0; expected a number above 0: points of accuracy"),
        (("--until", "decided", "--margin", "nan"), "--margin nan; expected a number above 0"),
        (("--until", "decided", "--max-seeds", "2"), "--max-seeds 2; expected a whole number of at least 3"),
        (("--until", "decided", "--budget", "10x"), "--budget 10x; expected a duration above 0, as 90s, 10m or 2h"),
        (("--until", "decided", "--budget", "0s"), "--budget 0s; expected a duration above 0"),
        (("--margin", "2"), "--margin 2.0 says when seeds are enough; expected --until decided with it"),
        (("--budget", "2m"), "--budget 2m says when seeds are enough"),
        (
            ("--until", "decided", "--seeds", "9", "--max-seeds", "8"),
            "9 seeds to begin with, and at most 8; expected more --max-seeds",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_means_nothing_is_refused(capsys, tmp_path, options, message):
    said = invoke(capsys, *TINY, "--out", str(tmp_path / "r"), *options)
    assert (said.status, said.out) == (2, "")
    assert message in " ".join(said.err.split())
    assert not (tmp_path / "r").exists()


def test_a_dry_run_shows_the_first_round_and_says_what_may_come(capsys):
    options = ("--until", "decided", "--max-seeds", "10", "--budget", "2m", "--margin", "0.5", "--dry-run")
    said = invoke(capsys, *TINY, *options)
    text = " ".join(said.out.split())
    assert "4 runs of 10 epochs, 40 in all" in text
    assert (
        "That is the first round. Each round after it drops the learning rates that are worse by validation, and then adds "
        "seeds, until every network is better or worse than the other, or less than 0.5 points apart, or 10 seeds or 120 s "
        "end. All 10 seeds are 26 runs."
    ) in text  # 2 networks, 2 rates with 3 seeds, one with 7 more
    printed = json.loads(invoke(capsys, *TINY, *options, "--json").out)
    assert (len(printed["runs"]), printed["runs_at_most"]) == (4, 26)


@pytest.mark.parametrize(("given", "seeds"), [(None, (0,)), (2, (0, 1))])
def test_the_seeds_of_a_recipe_are_not_those_of_the_first_round(given, seeds):
    rule = StoppingRule()
    experiment = _experiment("quickstart", _seeds(given, rule), {})
    assert (experiment.seeds, experiment.until) == (seeds, rule)
    assert _experiment("quickstart", _seeds(None, None), {}).seeds == (0, 1, 2, 3, 4)


@pytest.mark.slow
def test_a_log_has_a_line_for_every_look(capsys, tmp_path):
    options = (
        "--until",
        "decided",
        "--max-seeds",
        "3",
        "--epochs",
        "1",
        "--workers",
        "1",
        "--out",
        str(tmp_path / "r"),
    )
    said = invoke(capsys, *TINY, *options)
    assert said.status == 0
    lines = said.err.splitlines()
    assert sum("batch_norm against no_batch_norm: " in line and "n = 3: " in line for line in lines) == 1
    assert lines[-1].startswith("no more seeds: ")
    assert "Looked at after 3 pairs" in said.out
