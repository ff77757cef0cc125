"""`bnkit claims` as its user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bnkit.claims import Decision
from bnkit.claims.claims_folder import read
from bnkit.claims.evaluate_claims import evaluate_claims
from bnkit.cli.main import main
from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Callback
from tests.child_processes import run
from tests.cli.cli_runner import TINY_EXPERIMENT, invoke

# Two small networks that follow no setting, on 90 points: what has a design for them takes seconds.
OWN = ("--network", f"{TINY_EXPERIMENT}:networks", "--data", f"{TINY_EXPERIMENT}:data")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_network_of_ones_own_is_asked_what_it_can_be_asked(capsys):
    asked = ("1a", "2a", "6b", "8", "12")
    arguments = ("claims", "--quick", *OWN, "--seeds", "2", "--out", "c", *(f"--only={number}" for number in asked))
    result = invoke(capsys, *arguments)
    assert result.status == 0
    content = read(Path("c"))
    by_number = {claim["number"]: claim for claim in content["claims"]}
    assert tuple(by_number) == asked
    # Two seeds decide nothing, whatever they say.
    assert [claim["verdict"] for claim in content["claims"]] == [
        "not enough data", "not asked", "not asked", "not enough data", "not asked",
    ]  # fmt: skip
    assert by_number["12"]["why"].endswith("tiny_experiment.py:networks has no order to set")
    assert by_number["6b"]["why"] == "it is about the network residual-mlp"
    assert by_number["2a"]["why"] == "it takes batches of 128, and there are 90 images to train on"
    assert by_number["8"]["n"] == 2
    assert by_number["8"]["budget"] == "32 runs, 256 steps, 90 images"
    assert "Of 2 hypotheses 0 are decided" in result.out
    assert Path("c/claims.md").read_text().count("| not asked") == 3
    # Called again, nothing is trained.
    again = invoke(capsys, *arguments, "--json")
    assert json.loads(again.out)["claims"] == content["claims"]


@pytest.mark.parametrize("name", ["claims.json", "claims.md", "claims.html", "learning-rates/results.csv"])
def test_a_users_file_is_refused_before_anything_is_trained(capsys, tmp_path, name):
    mine = tmp_path / "c" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    result = invoke(capsys, "claims", "--quick", *OWN, "--seeds", "2", "--out", "c", "--only", "8")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"{mine.parent.relative_to(tmp_path)} holds {mine.name}, which was not written by bnkit" in result.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_where_nothing_can_be_asked_the_verdicts_are_written_all_the_same(capsys, tmp_path):
    assert invoke(capsys, "claims", "--quick", *OWN, "--out", "c", "--only", "6b").status == 0
    (tmp_path / "c" / ".bnkit").unlink()  # as an earlier version left it
    assert invoke(capsys, "claims", "--quick", *OWN, "--out", "c", "--only", "6b").status == 0


@pytest.mark.slow
def test_some_claims_and_the_same_verdict_after_an_interruption(capsys):
    """Interrupted in the middle, the same call goes on; what was complete stays as it is."""

    class Leaving(Callback):
        def run_ended(self, run, record):
            if run.number == 5:
                raise KeyboardInterrupt

    settings = {
        "data": f"{TINY_EXPERIMENT}:data",
        "network": f"{TINY_EXPERIMENT}:networks",
        "quick": True,
        "only": ["covariate-shift", "10a"],
    }
    with pytest.raises(KeyboardInterrupt):
        evaluate_claims(out=Path("parts"), observer=Leaving(), **settings)
    files = {path: path.read_bytes() for path in Path("parts/inside/runs").glob("*/record.jsonl")}
    assert len(files) == 5
    parts, whole = evaluate_claims(out=Path("parts"), **settings), evaluate_claims(out=Path("whole"), **settings)
    assert all(path.read_bytes() == content for path, content in files.items())
    assert [result.effects for result in parts.results] == [result.effects for result in whole.results]
    assert [result.claim.number for result in whole.results] == ["9", "10a"]
    assert all(len(result.effects) == 7 and result.verdict.p_holds is not None for result in whole.results)
    assert whole.count(Decision.NOT_ASKED) == 0
    assert whole.command.startswith("bnkit claims --quick --data ")
    assert "--only covariate-shift --only 10a --out whole" in whole.command


@pytest.mark.slow
def test_a_report_of_the_folder_of_claims(capsys):
    asked = ("--only=9", "--only=10a", "--only=12", "--seeds", "2", "--out", "c")
    invoke(capsys, "claims", "--quick", *OWN, *asked)
    first = Path("c/claims.html").read_text()
    assert "bnkit report c</code> draws a report of it" in first
    # From the records alone, in a process that has no torch.
    code = (
        "import sys, bnkit.cli.main as m\ntry:\n m.main(['report', 'c'])\nfinally:\n assert 'torch' not in sys.modules"
    )
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
    assert "It reduces internal covariate shift (" in done.stdout
    assert (
        "Of 2 hypotheses 0 are decided" in done.stdout
        and "report, with the pages that make the claims: c/claims.html" in done.stdout
    )
    text = Path("c/claims.html").read_text()
    assert '<a href="inside/report.html">Its report</a>' in text
    assert "4 finished" in text and 'id="design-inside"' in text and 'id="design-order"' not in text
    assert Path("c/inside/report.html").stat().st_size < 3_000_000
    result = invoke(capsys, "report", "c", "--json")
    assert json.loads(result.out)["claims"] == read(Path("c"))
    for arguments in (("c", "c/inside"), ("c/inside", "c"), ("c", "--out", "x.html")):
        result = invoke(capsys, "report", *arguments)
        assert result.status == 2 and "c is a folder of bnkit claims; expected only that folder" in result.err


@pytest.mark.parametrize("content", ["{", "{}", '{"claims": [{}]}'])
def test_verdicts_that_cannot_be_read_are_told(capsys, content):
    Path("c").mkdir()
    Path("c/claims.json").write_text(content)
    result = invoke(capsys, "report", "c")
    assert result.status == 2 and "claims.json" in result.err and result.err.count("\n") == 1


@pytest.mark.exhaustive
def test_the_figures_do_not_depend_on_the_number_of_workers():
    settings = {
        "data": f"{TINY_EXPERIMENT}:data",
        "network": f"{TINY_EXPERIMENT}:networks",
        "quick": True,
        "seeds": 3,
        "only": ["9", "10b"],
    }
    here, there = (
        evaluate_claims(out=Path("here"), **settings),
        evaluate_claims(out=Path("there"), workers=2, **settings),
    )
    assert [result.effects for result in here.results] == [result.effects for result in there.results]
    assert [result.verdict for result in here.results] == [result.verdict for result in there.results]
    assert all(len(result.effects) == 3 for result in here.results)
    runs = [{path.name for path in Path(out, "inside", "runs").iterdir()} for out in ("here", "there")]
    assert runs[0] == runs[1]


@pytest.mark.exhaustive
def test_seeds_are_added_until_decided_and_a_call_that_was_killed_goes_on(capsys):
    class Leaving(Callback):
        def run_ended(self, run, record):
            if run.seed == 3:
                raise KeyboardInterrupt

    settings = {
        "data": f"{TINY_EXPERIMENT}:data",
        "network": f"{TINY_EXPERIMENT}:networks",
        "quick": True,
        "until": "decided",
        "max_seeds": 5,
        "only": ["8"],
    }
    with pytest.raises(KeyboardInterrupt):
        evaluate_claims(out=Path("parts"), observer=Leaving(), **settings)
    # What was judged before is there.
    assert [claim["n"] for claim in read(Path("parts"))["claims"]] == [3]
    parts, whole = evaluate_claims(out=Path("parts"), **settings), evaluate_claims(out=Path("whole"), **settings)
    assert [(result.verdict, result.effects, result.looks) for result in parts.results] == [
        (result.verdict, result.effects, result.looks) for result in whole.results
    ]
    assert [result.looks for result in whole.results] == [(3, 4, 5)]
    assert "at every look: seeds were added where a verdict was open" in whole.answer
    assert "--until decided --max-seeds 5 --only 8 --out whole" in whole.command
    # Later with seeds that are fixed: the looks before are allowed for.
    invoke(capsys, "claims", "--quick", *OWN, "--seeds", "6", "--out", "whole", "--only", "8")
    content = read(Path("whole"))
    assert content["claims"][0]["looks"] == [3, 4, 5, 6]
    assert "at every look: after 3, 4, 5 and 6 seeds" in content["answer"]


@pytest.mark.slow
def test_a_folder_that_grew_says_how_often_it_was_looked_at(capsys):
    def looks(*arguments):
        invoke(capsys, "claims", "--quick", *OWN, "--out", "c", "--only", "12", "--only", "10a", *arguments)
        claims = {claim["number"]: claim for claim in read(Path("c"))["claims"]}
        assert claims["12"]["verdict"] == "not asked"
        return claims["10a"]["looks"]

    assert looks("--seeds", "3") == [3]
    assert looks("--seeds", "3") == [3]
    assert "at every look" not in read(Path("c"))["answer"]
    assert looks("--seeds", "4") == [3, 4]
    assert "at every look: after 3 and 4 seeds" in Path("c/claims.html").read_text()
    # No time for more seeds; those that are there count.
    assert looks("--until", "decided", "--budget", "0.001s") == [3, 4]
    assert looks("--seeds", "4", "--fresh") == [4]


def test_a_design_that_asks_for_durations_is_trained_alone(monkeypatch):
    given = {}

    def note(experiment, out, *, workers, **_):
        given[experiment.name] = workers
        raise KeyboardInterrupt

    monkeypatch.setattr("bnkit.claims.train_designs.run_experiment", note)
    for number in ("1b", "2a"):
        with pytest.raises(KeyboardInterrupt):
            evaluate_claims(quick=True, only=[number], workers="auto")
    assert given == {"learning-rates": "auto", "iterations": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "0"), "--workers 0; expected a whole number above 0, or auto"),
        (("--workers", "many"), "--workers many; expected a whole number above 0, or auto"),
        (("--only", "faster"), "no claim is called 'faster'; expected one of faster-in-steps, "),
        (("--budget", "0"), "--budget 0; expected how many times as many images, above 0"),
        (("--seeds", "0"), "--seeds 0; expected at least 1"),
        (
            ("--budget", "2h"),
            "--budget 2h is a duration; expected --until decided with it, or how many times as many images",
        ),
        (("--until", "bored"), "--until bored; expected decided"),
        (("--until", "decided", "--budget", "soon"), "--budget soon; expected a duration above 0, as 90s, 10m or 2h"),
        (("--until", "decided", "--seeds", "5"), "--seeds 5 with --until decided; expected one of them"),
        (("--until", "decided", "--max-seeds", "2"), "--max-seeds 2; expected at least 3"),
        (("--network", "nothing"), "unknown network 'nothing'; expected one of two-cnn, "),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_trained(capsys, arguments, message):
    result = invoke(capsys, "claims", "--quick", *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not Path("results").exists()


def test_networks_by_other_names_are_refused(tmp_path):
    (tmp_path / "other.py").write_text(
        "def networks():\n    from torch import nn\n    return {'a': lambda: nn.Linear(6, 3)}\n"
    )
    with pytest.raises(SettingsError, match="has networks called a; expected no_batch_norm and batch_norm"):
        evaluate_claims(f"{TINY_EXPERIMENT}:data", f"{tmp_path / 'other.py'}:networks", quick=True)


def test_help_begins_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["claims", "--help"])
    assert "bnkit claims --quick" in capsys.readouterr().out
