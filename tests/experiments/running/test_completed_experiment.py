"""What is recorded to its end is shown without torch; what is not goes on as ever."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bnkit
from tests.child_processes import run

pytestmark = pytest.mark.slow  # each test trains, or starts a process

SMALL = {
    "data": "digits", "grid": {"lr": [0.1], "batch_size": [256]}, "seeds": 1, "epochs": 1, "threads": 1, "out": "r",
}  # fmt: skip
# The same call on the command line.
ARGUMENTS = ["compare", "small.toml", "--out", "r"]
TOML = """name = "comparison"
networks = ["mlp"]
seeds = 1
epochs = 1
threads = 1
[grid]
lr = [0.1]
batch_size = [256]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which two runs are recorded, and its answer."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "small.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, str(bnkit.compare("mlp", **SMALL).answer)


@pytest.fixture
def folder(done, monkeypatch):
    monkeypatch.chdir(done[0])
    return Path("r")


def _events(**changes):
    events = []
    comparison = bnkit.compare("mlp", **{**SMALL, **changes}, observer=events.append)
    return comparison, [type(event).__name__ for event in events]


def test_the_second_call_loads_no_torch_and_says_the_same(done, folder):
    report, table = folder / "report.html", folder / "results.csv"
    before, rows = report.stat().st_mtime_ns, table.read_text()
    program = (
        f"import sys\nfrom bnkit.cli.main import main\ntry:\n    main({[*ARGUMENTS, '-q']})\n"
        "finally:\n    print({'torch', 'bokeh', 'numba', 'scipy.stats'} & set(sys.modules), file=sys.stderr)"
    )
    child = run([sys.executable, "-c", program], cwd=done[0])
    assert (child.returncode, child.stdout.strip()) == (0, done[1])
    assert child.stderr.strip() == "set()"
    assert report.stat().st_mtime_ns == before  # it was made from the same
    assert table.read_text() == rows


def test_a_comparison_that_loaded_nothing_builds_its_networks_all_the_same(folder):
    comparison, events = _events()
    assert events == ["PlanStarted", "ReportStarted"]
    assert comparison.load(1) is not comparison.load(1)
    assert len(comparison.data(1).train) > 1000


def test_a_report_that_is_gone_is_written_again(folder):
    report = folder / "report.html"
    content = report.read_text()
    report.unlink()
    _events()
    assert report.read_text().splitlines()[-1] == content.splitlines()[-1]


@pytest.mark.parametrize("left", ["checkpoint.pt", ".running"])
def test_what_a_killed_call_left_is_cleaned_up(folder, left):
    comparison, _ = _events()
    file = folder / "runs" / comparison.plan.runs[0].run_id / left
    file.write_text("")
    _, events = _events()
    assert not file.exists()
    assert "EpochDone" not in events


def test_what_is_missing_is_trained(folder):
    comparison, _ = _events()
    comparison.folder.record_file(comparison.plan.runs[1]).path.unlink()
    again, events = _events()
    assert events.count("RunEnded") == 1
    assert str(again.answer).splitlines()[0] == str(comparison.answer).splitlines()[0]


def test_other_settings_are_trained(folder):
    _, events = _events(out="s", grid={"lr": [0.2], "batch_size": [256]})
    assert events.count("RunEnded") == 2
