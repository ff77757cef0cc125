"""The benchmark for GPUs, where there is none: it runs to its end, and needs nothing but torch and Triton."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.child_processes import run

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "gpu.py"
# Runs the script as on a machine that has torch, Triton and NumPy, and nothing else that bnkit asks for: filelock and Jinja2 come with torch.
BARE = """
import runpy, sys
absent = {
    "numba", "llvmlite", "typer", "rich", "pydantic", "bokeh", "scipy", "pooch", "safetensors", "PIL", "platformdirs",
    "tomli_w", "cloudpickle", "requests",
}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", BARE, str(SCRIPT), *arguments]
    return run(command, cwd=folder, seconds=240, environment={"TRITON_INTERPRET": None})


@pytest.mark.exhaustive
def test_a_dry_run_checks_times_prints_and_writes(tmp_path):
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Triton; the extra `dev` installs it")
        pytest.skip("no Triton on this machine: the benchmark was not tried out")
    done = _run("--device", "cpu", "--output", "figures.json", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["failed"] == []
    assert all(check["passed"] for check in figures["checks"])
    assert len(figures["checks"]) == 23
    assert {row["layout"] for row in figures["layers"]} == {"contiguous", "channels last"}
    assert all(set(row["times_ms"]) == {"ours", "eager", "compile", "copy"} for row in figures["layers"])
    assert set(figures["network"]) == {"eager", "ours", "compile", "ours, compile"}
    assert set(figures["sweep"]) == {"torch.nn, eager", "ours, eager"}
    assert "23 of 23 passed" in done.stdout
    assert "4x2x4x4 channels last bfloat16 + residual" in done.stdout


@pytest.mark.slow
def test_without_time_it_says_what_was_left_out(tmp_path):
    done = _run("--device", "cpu", "--limit", "0", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout
    assert "note: layers: left out, 0 s of the time limit were left" in done.stdout
    assert json.loads((tmp_path / "gpu.json").read_text())["notes"]


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = _run(folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("benchmarks/gpu.py: no GPU here")
    assert list(tmp_path.iterdir()) == []
