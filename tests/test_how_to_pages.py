"""Pages that show files and commands: the files are saved under their titles, and the commands run, in one folder."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from tests import child_processes

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
pytestmark = pytest.mark.slow


def _page(name):
    return (HOW_TO / f"{name}.md").read_text(encoding="utf-8")


def _blocks(page, opening):
    return re.findall(rf"^```{opening}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def _save_files(page, folder):
    for title, code in re.findall(r'^```python title="([\w.]+)"\n(.*?)^```', page, re.DOTALL | re.MULTILINE):
        (folder / title).write_text(code)


def _run(commands, folder):
    ours = f'python() {{ "{sys.executable}" "$@"; }}; bnkit() {{ python -m bnkit.cli.main "$@"; }}\n'
    return child_processes.run(
        ["sh", "-c", ours + commands], seconds=240, cwd=folder, environment={"MPLBACKEND": "agg", "COLUMNS": None}
    )


def _words(text):
    """The words of a text, and its numbers, which may differ a little on another processor."""
    words = re.findall(r"[A-Z]+\d+|\d+(?:\.\d+)?|[^\s\d]+", text)
    return [pytest.approx(float(word), rel=0.1) if word[0].isdigit() else word for word in words]


@pytest.mark.parametrize(
    ("name", "written", "printed"),
    [
        (
            "papers",
            ["difference.pdf", "table.tex", "accuracy.svg", "results/paper/difference.pdf"],
            [r"\begin{table}", r"\label{tab:paper}", "| batch_norm | 0.3 |", "network,lr,best,n,failed,mean"],
        ),
        ("lightning", ["net.ckpt"], ["nothing found in 1 layer"]),
        pytest.param(
            "sweeps",
            ["difference.pdf", "multirun"],
            ["batch_norm against no_batch_norm, lr 0.1: test_accuracy"],
            marks=pytest.mark.skipif(sys.version_info >= (3, 14), reason="Hydra 1.3 does not start on Python 3.14"),
        ),
    ],
)
def test_files_and_commands_work_as_they_are_shown(tmp_path, name, written, printed):
    page = _page(name)
    _save_files(page, tmp_path)
    done = _run("set -e\n" + "".join(_blocks(page, "sh")), tmp_path)
    assert done.returncode == 0, done.stderr
    for path in written:
        assert (tmp_path / path).exists(), path
    told = done.stdout + "".join(path.read_text() for path in tmp_path.glob("*.tex"))
    for text in printed:
        assert text in told


def test_what_stands_below_an_example_is_what_it_prints():
    page = _page("sweeps")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(_blocks(page, "python")[0], "example.py", "exec"), {"__name__": "example"})  # noqa: S102
    (shown,) = _blocks(page, "text")
    assert printed.getvalue().startswith(shown)


def test_a_check_with_data_prints_what_the_page_shows(tmp_path):
    page = _page("check-your-data")
    _save_files(page, tmp_path)
    shown = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(_blocks(page, "console")), re.MULTILINE)
    assert [command.split()[0] for command, _ in shown] == ["python", "bnkit", "bnkit"]
    for command, output in shown:
        done = _run(command, tmp_path)
        assert not done.stderr, command
        printed, expected = _words(done.stdout), _words(output.removeprefix("…\n"))
        assert (printed[-len(expected) :] if output.startswith("…") else printed) == expected, done.stdout
