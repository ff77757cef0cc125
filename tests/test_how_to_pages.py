"""Pages that show files and commands: the files are saved under their titles, and the commands run, in one folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
pytestmark = pytest.mark.slow


def _page(name):
    return (HOW_TO / f"{name}.md").read_text(encoding="utf-8")


def _blocks(page, opening):
    return re.findall(rf"^```{opening}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "written", "printed"),
    [
        (
            "papers",
            ["difference.pdf", "table.tex", "accuracy.svg", "results/paper/difference.pdf"],
            [r"\begin{table}", "| batch_norm | 0.3 |", "network,lr,best,n,failed,mean"],
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
    for title, code in re.findall(r'^```python title="([\w.]+)"\n(.*?)^```', page, re.DOTALL | re.MULTILINE):
        (tmp_path / title).write_text(code)
    commands = "".join(_blocks(page, "sh"))
    ours = f'python() {{ "{sys.executable}" "$@"; }}; bnkit() {{ python -m bnkit.cli.main "$@"; }}\n'
    done = subprocess.run(
        ["sh", "-e", "-c", ours + commands], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in written:
        assert (tmp_path / path).exists(), path
    for text in printed:
        assert text in done.stdout


def test_what_stands_below_an_example_is_what_it_prints():
    page = _page("sweeps")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(_blocks(page, "python")[0], "example.py", "exec"), {"__name__": "example"})  # noqa: S102
    (shown,) = _blocks(page, "text")
    assert printed.getvalue().startswith(shown)
