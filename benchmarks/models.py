"""Third-party networks, folded: what goes where, how far the result is off, how much faster it runs.

    python -m benchmarks.models --rounds 21

Run from the root of the repository, since the networks are those of `tests/zoo`. For each: bnkit.fold, and beside it
the `fuse` of torch.fx. Errors are against float64, on another input than the one that was folded with, divided by the
largest magnitude of the output. The network as it was, bnkit's and torch.fx's take turns in one process and one thread,
by the time that the thread has the processor; medians; ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tests.zoo.networks import NORMALISED, Network, build, example
from tests.zoo.rounding import exact, outputs
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bnkit.model.edit.fold import fold
from bnkit.model.inspect.example import largest_difference

# Beyond this, times the error that the network has by itself, a result is wrong and not rounded.
WRONG = 100
# Seconds after which a network that is slow gets no more rounds than the fewest.
LONGEST, FEWEST = 8.0, 5
COLUMNS = (
    "network", "layers", "batch norms", "into layers", "scale and shift", "kept", "own error", "error folded",
    "error torch.fx", "left by torch.fx", "ms", "ms folded", "times faster", "torch.fx times faster",
)  # fmt: skip


def norms(model: nn.Module) -> int:
    """How many batch norms ``model`` holds."""
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def seconds(model: nn.Module, inputs: Tensor) -> float:
    """How long this thread, the only one, computes on one forward pass."""
    with torch.inference_mode():
        start = time.thread_time()
        model(inputs)
        return time.thread_time() - start


def fused_by_fx(model: nn.Module) -> tuple[nn.Module | None, str]:
    """What torch.fx makes of ``model``, or None and why there is nothing."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return fuse(copy.deepcopy(model)), ""
    except Exception as error:
        return None, type(error).__name__


def measure(network: Network, rounds: int) -> dict[str, Any]:
    """The figures of one network."""
    model, inputs, other = build(network), example(network), example(network, seed=5)
    truth = exact(model, other)
    own = largest_difference(truth, outputs(model, other))
    folded, changes = fold(model, inputs)
    theirs, failure = fused_by_fx(model)
    their_error = None
    if theirs is not None:
        try:
            their_error = largest_difference(truth, outputs(theirs, other))
        except Exception as error:
            theirs, failure = None, type(error).__name__
    players = {"as it was": model, "folded": folded, **({} if theirs is None else {"torch.fx": theirs})}
    turns: dict[str, list[float]] = {name: [] for name in players}
    begun = time.monotonic()
    for turn in range(-2, rounds):
        if turn > FEWEST and time.monotonic() - begun > LONGEST:
            break
        for name, player in players.items():
            duration = seconds(player, inputs)
            if turn >= 0:  # the first two warm up
                turns[name].append(duration)
    ratios = {
        name: statistics.median(before / after for before, after in zip(turns["as it was"], times, strict=True))
        for name, times in turns.items()
    }
    own_scale = sum("into a scale and a shift" in change.detail for change in changes.made)
    floor = max(own, torch.finfo(torch.float32).eps)
    return {
        "network": network.name,
        "layers": sum(isinstance(module, (nn.Linear, _ConvNd)) for module in model.modules()),
        "batch norms": norms(model),
        "into layers": len(changes.made) - own_scale,
        "scale and shift": own_scale,
        "kept": len(changes.kept),
        "own error": own,
        "error folded": largest_difference(truth, outputs(folded, other)),
        "error torch.fx": failure if their_error is None else their_error,
        "torch.fx is wrong": their_error is not None and not their_error <= WRONG * floor,
        "left by torch.fx": None if theirs is None else norms(theirs),
        "ms": 1000 * statistics.median(turns["as it was"]),
        "ms folded": 1000 * statistics.median(turns["folded"]),
        "times faster": ratios["folded"],
        "torch.fx times faster": ratios.get("torch.fx"),
        "jumps": network.jumps,
    }


def cell(row: dict[str, Any], column: str) -> str:
    """One figure as text."""
    value = row[column]
    if value is None:
        return "–"
    if column == "error torch.fx" and row["torch.fx is wrong"]:
        return f"**{value:.1e}**"
    if isinstance(value, float):
        return f"{value:.1e}" if "error" in column else f"{value:.2f}"
    return str(value)


def geometric_mean(values: list[float]) -> float:
    """Of ratios."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def main() -> None:
    """Measure network after network, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # those of the libraries

    rows = []
    for network in NORMALISED:
        if options.only in network.name:
            rows.append(measure(network, options.rounds))
            sys.stderr.write(f"{network.name}: {rows[-1]['times faster']:.2f} times faster\n")

    print(f"{len(rows)} networks, torch {torch.__version__}, one thread, {platform.machine()}, batch 2")
    print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(cell(row, column) for column in COLUMNS)} |")
    both = [row for row in rows if row["torch.fx times faster"] is not None and not row["torch.fx is wrong"]]
    summary = {
        "times faster, geometric mean": geometric_mean([row["times faster"] for row in rows]),
        "where torch.fx is right, bnkit": geometric_mean([row["times faster"] for row in both]),
        "where torch.fx is right, torch.fx": geometric_mean([row["torch.fx times faster"] for row in both]),
        "torch.fx right, nothing left": sum(not row["left by torch.fx"] for row in both),
        "torch.fx right, some left": sum(bool(row["left by torch.fx"]) for row in both),
        "torch.fx wrong": sum(row["torch.fx is wrong"] for row in rows),
        "torch.fx raises": sum(row["left by torch.fx"] is None for row in rows),
    }
    print()
    for name, value in summary.items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        settings = {**vars(options), "json": None, "torch": torch.__version__}
        options.json.write_text(json.dumps({"options": settings, "summary": summary, "networks": rows}, indent=2))


if __name__ == "__main__":
    main()
