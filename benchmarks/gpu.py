"""The layers on a GPU: are the numbers right, how fast are they, in how much memory. Under five minutes, no arguments.

Checks every case against float64, bits that repeat, CUDA graphs and ``torch.compile``; then times one layer (ten shapes, two
layouts, three dtypes; eager ``torch.nn``, ``torch.compile`` and ours, in turns, medians, nothing in the cache at the start), a
step of ResNet-50, and a sweep of small trainings. What a copy of the same tensor takes is measured beside it: ``share`` is the
least traffic there is (five passes over the tensor, eight with a residual) at that rate, over our time.

    python benchmarks/gpu.py                       # from a checkout, with torch and triton: nothing has to be installed
    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu          # a dry run of the script, interpreted: its times mean nothing

It ends with status 0, with 1 if a check or a part failed, and with 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import geometric_mean
from typing import Any

START = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
# Seconds, in all: what is started may take some more.
LIMIT = 280.0
_SHARE_OF_COMPILING = 0.4


def main() -> int:
    """Run all parts, print the table, write the figures; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("gpu.json"), help="where the figures go (default: gpu.json)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run, interpreted")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds in all (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: no GPU here (torch.cuda.is_available() is False); --device cpu tries the script out")
        return 2
    figures = _measured(arguments.device, arguments.limit)
    arguments.output.write_text(json.dumps(figures, indent=1))
    print(_table(figures))
    print(f"\n{figures['seconds']:.0f} s; figures in {arguments.output}")
    return 1 if figures["failed"] else 0


def _measured(device: str, limit: float) -> dict[str, Any]:
    from benchmarks.gpu_parts import checks, layers, networks
    from benchmarks.gpu_parts.ahead import compile_ahead
    from benchmarks.gpu_parts.device import Bench, OutOfTimeError

    bench = Bench(device, limit, START)
    figures: dict[str, Any] = {"environment": _environment(device), "failed": []}
    parts = {
        "compiled ahead": lambda: compile_ahead(bench, bench.left() * _SHARE_OF_COMPILING),
        "checks": lambda: checks.run(bench),
        "sweep": lambda: networks.sweep(bench),
        "network": lambda: networks.step_times(bench),
        "layers": lambda: layers.run(bench, until=limit / 20),
    }
    for name, part in parts.items():
        begin = time.monotonic()
        try:
            bench.need(5, name)
            figures[name] = part()
        except OutOfTimeError as error:
            bench.notes.append(str(error))
        except Exception as error:  # the others go on
            figures["failed"].append(
                f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        bench.notes.append(f"{name}: {time.monotonic() - begin:.0f} s")
    figures["failed"] += [f"{c['check']}: {c['seen']}" for c in figures.get("checks") or () if not c["passed"]]
    figures["failed"] += [f"{_named(row)}: {row['failed']}" for row in figures.get("layers") or () if "failed" in row]
    return figures | {"notes": bench.notes, "seconds": time.monotonic() - START}


def _environment(device: str) -> dict[str, Any]:
    import torch
    import triton

    import bnkit

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu, interpreted: times mean nothing"
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__, "bnkit": bnkit.__version__}


def _named(row: dict[str, Any]) -> str:
    adds = " + residual" if row["adds"] else ""
    return f"{'x'.join(map(str, row['shape']))} {row['layout']} {row['dtype']}{adds}"


def _table(figures: dict[str, Any]) -> str:
    """What was measured, as text; what was not says so."""
    lines = ["  ".join(f"{key} {value}" for key, value in figures["environment"].items()), ""]
    checked = figures.get("checks") or []
    lines += [f"checks: {sum(c['passed'] for c in checked)} of {len(checked)} passed", ""]
    header = f"{'BatchNorm2d + ReLU, forward and backward':<52}{'eager':>9}{'compile':>9}{'ours':>9}{'faster':>16}{'share':>7}"
    lines += [header, f"{'':<52}{'ms':>9}{'ms':>9}{'ms':>9}{'eager, compile':>16}{'':>7}"]
    rows = [row for row in figures.get("layers") or () if "failed" not in row]
    for row in rows:
        times, faster = row["times_ms"], row["times_faster"]
        both = f"{faster['eager']:.2f}, {_number(faster.get('compile'), 2)}"
        lines.append(
            f"{_named(row):<52}{times['eager']:>9.3f}{_number(times.get('compile'), 3):>9}{times['ours']:>9.3f}{both:>16}"
            f"{100 * row['share_of_copy']:>6.0f}%"
        )
    lines += _means(rows) if rows else ["not measured"]
    lines += ["", "ResNet-50, bfloat16, channels last: one step of training"]
    for name, row in (figures.get("network") or {}).items():
        lines.append(
            f"  {name:<16}{row['step_ms']:>9.1f} ms{row['images_per_second']:>9.0f} images/s  {_number(row['peak_mb'], 0)} MB"
        )
    lines += [] if figures.get("network") else ["  not measured"]
    lines += ["", "a sweep of small networks, runs per second"]
    lines += [f"  {name:<24}{row['runs_per_second']:>8.2f}" for name, row in (figures.get("sweep") or {}).items()]
    lines += [] if figures.get("sweep") else ["  not measured"]
    lines += ["", *(f"note: {note}" for note in figures["notes"]), *(f"FAILED: {what}" for what in figures["failed"])]
    return "\n".join(lines)


def _means(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for key in dict.fromkeys((row["layout"], row["dtype"], row["adds"]) for row in rows):
        alike = [row for row in rows if (row["layout"], row["dtype"], row["adds"]) == key]
        words = []
        for other in ("eager", "compile"):
            ratios = [row["times_faster"][other] for row in alike if other in row["times_faster"]]
            if ratios:
                words.append(
                    f"{geometric_mean(ratios):.2f} times faster than {other} (least {min(ratios):.2f}, of {len(ratios)})"
                )
        share = geometric_mean([row["share_of_copy"] for row in alike])
        lines.append(
            f"{key[0]}, {key[1]}{', residual' if key[2] else ''}: {'; '.join(words)}; share of a copy {100 * share:.0f}%"
        )
    return ["", *lines]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
