"""What the first minute with bnkit costs: commands, and the first training step of a fresh process.

    python benchmarks/first_minute.py --rounds 3
    python benchmarks/first_minute.py --demo      # and a whole `bnkit compare` into an empty folder

Every figure is of a new process: seconds on the clock until it ends, and seconds of processor of it and of
all processes that it started. Those that outlive it, such as the server from which workers are forked, count on Linux only.
Beside bnkit's commands stands what Python and PyTorch alone take; beside bnkit's layers those of torch.nn. Rounds in turns,
medians. A first step is timed from when torch is loaded to the end of the step, so that what else is imported counts.

Compiled loops are kept in the folder that NUMBA_CACHE_DIR names, here an empty one. Cold: the first process that uses it.
Warm: later ones, after a process that compiled whatever was missing and waited for it (BNKIT_COMPILE=now).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PYTHON = (sys.executable, "-W", "ignore")
BNKIT = (*PYTHON, "-m", "bnkit.cli.main")
# 2 networks × 5 seeds × 100 × 9 × 7 points.
MANY_RUNS = """name = "many"
networks = ["two-cnn"]
seeds = 5
epochs = 1
drop_last = true
[grid]
lr = [{rates}]
momentum = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
weight_decay = [0.0, 0.0001, 0.001, 0.01, 0.1, 0.2, 0.3]
"""

# Programs that print how long a first training step took, and a second.
LAYER = """
import time, torch
began = time.perf_counter()
from {module} import BatchNorm2d
layer = BatchNorm2d(64)
def step():
    layer(torch.randn(64, 64, 28, 28, requires_grad=True)).square().sum().backward()
"""
NETWORK = """
import time, torch
from pytorchcv.models.resnet import resnet18
model, x = resnet18(num_classes=10), torch.randn(4, 3, 224, 224)
targets = torch.randint(0, 10, (4,))
began = time.perf_counter()
{convert}
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), targets).backward()
    optimizer.step()
"""
CONVERT = "import bnkit\nmodel, _ = bnkit.convert(model, example_inputs=x)"
TIMED = """
step()
first = time.perf_counter()
step()
print(first - began, time.perf_counter() - first)
"""


# Of Linux's <sys/prctl.h>.
PR_SET_CHILD_SUBREAPER = 36


class Taken(NamedTuple):
    """What a process took: seconds on the clock, seconds of processor with all that it started, and what it printed."""

    wall: float
    processor: float
    printed: str


def take(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Taken:
    """Run ``command`` in ``folder`` to its end, and to that of the processes that it started.

    Raises:
        RuntimeError: It failed.
    """
    log = folder / "log.txt"
    with log.open("w+") as errors, tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        # The system counts a process to its parent when that waits for it. The server from which workers are forked ends after
        # the command, which does not wait for it.
        processor = usage.ru_utime + usage.ru_stime + wait_for_orphans()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {errors.read()[-2000:]}")
        output.seek(0)
        return Taken(wall, processor, output.read())


def adopt_orphans() -> None:
    """From now on, processes whose parent ends become children of this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for_orphans() -> float:
    """Wait for all children to end; returns their seconds of processor."""
    seconds = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return seconds
        seconds += usage.ru_utime + usage.ru_stime


def commands(folder: Path) -> dict[str, Sequence[str]]:
    """By label, what a user types, and what Python and PyTorch take beside it. Prepares what they need in ``folder``."""
    rates = ", ".join(f"{number / 1000}" for number in range(1, 101))
    (folder / "many.toml").write_text(MANY_RUNS.format(rates=rates))
    recorded = (*BNKIT, "compare", "--seeds", "2", "--epochs", "1", "--out", "recorded", "-q")
    take(recorded, folder)
    return {
        "python -c pass": (*PYTHON, "-c", "pass"),
        'python -c "import torch"': (*PYTHON, "-c", "import torch"),
        "bnkit --help": (*BNKIT, "--help"),
        "bnkit explain BN101": (*BNKIT, "explain", "BN101"),
        "bnkit data": (*BNKIT, "data"),
        "bnkit check --help": (*BNKIT, "check", "--help"),
        "bnkit compare, nothing to train (16 runs)": recorded,
        "bnkit compare --dry-run, 63,000 runs": (*BNKIT, "compare", "many.toml", "--dry-run"),
    }


def time_commands(folder: Path, rounds: int) -> list[dict[str, object]]:
    """A row for each command: medians over ``rounds``, in turns."""
    asked = commands(folder)
    taken: dict[str, list[Taken]] = {label: [] for label in asked}
    for _ in range(rounds):
        for label, command in asked.items():
            taken[label].append(take(command, folder))
    return [
        {
            "what": label,
            "seconds": statistics.median(entry.wall for entry in entries),
            "processor": statistics.median(entry.processor for entry in entries),
        }
        for label, entries in taken.items()
    ]


def time_first_steps(what: str, programs: Mapping[str, str], folder: Path, rounds: int) -> list[dict[str, object]]:
    """A row for torch.nn and one for bnkit: the first step with nothing compiled, with everything, and the second step then."""
    rows: list[dict[str, object]] = []
    cold: dict[str, list[float]] = {side: [] for side in programs}
    warm: dict[str, list[tuple[float, float]]] = {side: [] for side in programs}
    run = {side: (*PYTHON, "-c", program + TIMED) for side, program in programs.items()}
    for _ in range(rounds):
        cache = {"NUMBA_CACHE_DIR": tempfile.mkdtemp(dir=folder)}
        for side, command in run.items():
            cold[side].append(_seconds(take(command, folder, cache))[0])
        for command in run.values():
            take(command, folder, {**cache, "BNKIT_COMPILE": "now"})
        for side, command in run.items():
            warm[side].append(_seconds(take(command, folder, cache)))
    for side in programs:
        first, second = zip(*warm[side], strict=True)
        rows.append(
            {
                "what": f"{what}, {side}",
                "cold": statistics.median(cold[side]),
                "warm": statistics.median(first),
                "second step": statistics.median(second),
            }
        )
    return rows


def _seconds(taken: Taken) -> tuple[float, float]:
    first, second = map(float, taken.printed.split())
    return first, second


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """Print ``rows`` as a table in Markdown."""
    header = list(rows[0])
    print(f"\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(
            "| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values()) + " |"
        )


def main() -> None:
    """Time everything, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure")
    parser.add_argument("--demo", action="store_true", help="time a whole `bnkit compare` into an empty folder too")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    asked = parser.parse_args()
    adopt_orphans()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; seconds, medians of {asked.rounds}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [time_commands(folder, asked.rounds)]
        show(tables[-1])
        for what, programs in {
            "first step of a layer, 64×64×28×28": {
                "torch.nn": LAYER.format(module="torch.nn"),
                "bnkit.nn": LAYER.format(module="bnkit.nn"),
            },
            "first step of ResNet-18, 4×3×224×224": {
                "torch.nn": NETWORK.format(convert=""),
                "bnkit.convert (conversion counted)": NETWORK.format(convert=CONVERT),
            },
        }.items():
            tables.append(time_first_steps(what, programs, folder, asked.rounds))
            show(tables[-1])
        if asked.demo:
            demo = take((*BNKIT, "compare", "--out", "demo"), folder)
            again = take((*BNKIT, "compare", "--out", "demo"), folder)
            tables.append(
                [
                    {"what": label, "seconds": taken.wall, "processor": taken.processor}
                    for label, taken in (("bnkit compare (the demo)", demo), ("the same again", again))
                ]
            )
            show(tables[-1])
        print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    if asked.json is not None:
        asked.json.write_text(json.dumps(tables, indent=2) + "\n")


if __name__ == "__main__":
    main()
