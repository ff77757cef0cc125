"""The pictures of the documentation, made from a run: the report as a browser shows it, and the live table of a terminal.

python docs/pictures.py        # trains the quickstart, looked into, into build/pictures unless it is there; with --fresh again

The two intervals of a difference are drawn from runs of the quickstart's network with 3, 5 and 20 seeds. Each number has its own
folder: seeds that are added to a folder are further looks, and the intervals allow for those.

The page of the verdicts is made from the table in docs/results/claims-table.md, which `bnkit claims` wrote.

A picture has a dark version, <name>-dark.png, where docs/stylesheets/site.css names it for pages in dark colours.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

import bnkit
from bnkit.claims import CLAIMS, Decision, Scale, designs
from bnkit.claims.claims_page import claims_page
from bnkit.claims.judge_hypotheses import Verdict
from bnkit.claims.verdict_table import ClaimResult, Verdicts
from bnkit.comparison.compare import run_experiment
from bnkit.comparison.live_table import LiveTable
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import parse_experiment, read_recipe
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record
from bnkit.intervals.interval import Interval

HERE = Path(__file__).parent
FOLDER = HERE.parent / "build" / "pictures"
_FROM_INSIDE = "<style>header, main > *:has(~ #inside) { display: none; } #inside { margin-top: 0; }</style></head>"
_TO_THE_PLOT = "<style>main > #figure-forest ~ * { display: none; }</style></head>"
TABLE = HERE / "results" / "claims-table.md"
# At this learning rate the spread of the seeds sets the width with 3 seeds, and the number of test images with 20.
INTERVALS = {**read_recipe("quickstart"), "grid": {"lr": [0.1], "batch_size": [64]}}
SEEDS = (3, 5, 20)
# The live table is photographed after so many epochs.
MOMENT = 87


class Photographer(Callback):
    """Follows a comparison as the live table does, and keeps what it shows at one moment."""

    def __init__(self) -> None:
        self.console = Console(record=True, file=StringIO(), width=92, height=17, force_terminal=True)
        self.table = LiveTable(self.console)
        self.epochs = 0

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        """Pass it on."""
        self.table.plan_started(plan, done)

    def run_started(self, run: Run, record: Record) -> None:
        """Pass it on."""
        self.table.run_started(run, record)

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        """Pass it on."""
        self.table.batch_done(run, epoch, examples)

    def run_ended(self, run: Run, record: Record) -> None:
        """Pass it on."""
        self.table.run_ended(run, record)

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        """Pass it on, and press the button if it is time."""
        self.table.epoch_done(run, epoch)
        self.epochs += 1
        if self.epochs == MOMENT:
            self.console.print(self.table)
            self.console.save_svg(str(FOLDER / "terminal.svg"), title="bnkit compare")


def photograph(chromium: str, page: Path, size: str, picture: Path, *, dark: bool = False) -> None:
    """What a browser of ``size`` shows of ``page``, without a network."""
    subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--default-background-color=00000000",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         "--virtual-time-budget=8000", f"--window-size={size}", f"--screenshot={picture}", page.resolve().as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip


def photograph_both(chromium: str, page: Path, size: str, name: str) -> None:
    """``page`` in light and in dark colours, as ``<name>.png`` and ``<name>-dark.png``."""
    photograph(chromium, page, size, HERE / "images" / f"{name}.png")
    photograph(chromium, page, size, HERE / "images" / f"{name}-dark.png", dark=True)


def photograph_notebook(chromium: str, comparison: bnkit.Comparison) -> None:
    """A comparison as the last line of a cell, on a light page and on a dark one."""
    for name, is_light, colours in (
        ("notebook", "true", "#fff; color: #212121"),
        ("notebook-dark", "false", "#111; color: #e0e0e0"),
    ):
        page = FOLDER / f"{name}.html"
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><body data-jp-theme-light="{is_light}" style="margin: 1rem; background: {colours}; '
            f'font: 14px system-ui, sans-serif">{comparison._repr_html_()}',
            encoding="utf-8",
        )
        photograph(chromium, page, "860,706", HERE / "images" / f"{name}.png")


def draw_intervals(*, dark: bool = False) -> None:
    """Draw the differences of the seeds, and under them both intervals, for each number of seeds."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    plt.style.use(["default", "dark_background"] if dark else "default")
    colours = (
        {"dots": "#9aa4ae", "these": "#4aa3ff", "new": "#ff9d5c", "zero": "#bbbbbb", "page": "#14181d"}
        if dark
        else {"dots": "#6e7781", "these": "#0a58ca", "new": "#b04a00", "zero": "#333333", "page": "#ffffff"}
    )
    figure, axes = plt.subplots(figsize=(7.2, 3.3), layout="constrained", facecolor=colours["page"])
    axes.set_facecolor(colours["page"])
    for place, seeds in enumerate(SEEDS):
        comparison = run_experiment(
            parse_experiment({**INTERVALS, "seeds": seeds}, "intervals"), FOLDER / f"intervals-{seeds}"
        )
        last = {(row["network"], row["seed"]): row["test_accuracy"] for row in comparison.rows}
        differences = [100 * (last["batch_norm", seed] - last["no_batch_norm", seed]) for seed in range(seeds)]
        axes.plot(differences, [place - 0.2] * seeds, "o", color=colours["dots"], alpha=0.6, markersize=5)
        at = comparison.answer.contrasts[0].best
        for interval, colour, line, below in (
            (at.test, "these", {"linewidth": 5, "solid_capstyle": "butt"}, 0.05),
            (at.test_new_examples, "new", {"linewidth": 1.5, "marker": "|", "markersize": 11}, 0.25),
        ):
            ends = 100 * interval.low, 100 * interval.high
            axes.plot(ends, [place + below] * 2, color=colours[colour], **line)
            axes.text(
                ends[1],
                place + below,
                f"   [{ends[0]:+.1f}, {ends[1]:+.1f}]".replace("-", "−"),
                va="center",
                fontsize=9,
            )
    axes.axvline(0, color=colours["zero"], linestyle="--", linewidth=0.8)
    axes.set(yticks=range(len(SEEDS)), yticklabels=[f"{seeds} seeds" for seeds in SEEDS], ylim=(len(SEEDS) - 0.4, -0.5))
    axes.set_xlabel("points of test accuracy that batch norm adds")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    lines = [
        Line2D([], [], color=colours["dots"], marker="o", linestyle="", markersize=5),
        Line2D([], [], color=colours["these"], linewidth=5, solid_capstyle="butt"),
        Line2D([], [], color=colours["new"], linewidth=1.5, marker="|", markersize=11),
    ]
    names = ["each seed", "first interval: other seeds", "second interval: other seeds, other test images"]
    figure.legend(lines, names, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    name = "intervals-dark.png" if dark else "intervals.png"
    figure.savefig(HERE / "images" / name, dpi=144, facecolor=colours["page"])


def page_of_claims() -> str:
    """The page of the verdicts, from the table that the documentation shows."""
    design_of = designs(quick=False)
    rows = re.findall(
        r"^\| (\d\w*) \|.*\| ([a-z ]+) \| ([^|]*\[[^|]*) \| (\d+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE
    )
    found = {number: (decision, effect, int(n)) for number, decision, effect, n in rows}
    results = [
        ClaimResult(claim, design_of[claim.design], Verdict(Decision(decision), _interval(effect, claim.scale, n)), {})
        for claim in CLAIMS
        for decision, effect, n in [found[claim.number]]
    ]
    return claims_page(Verdicts(Path("results/claims"), results, 5, "bnkit claims --data fashion-mnist", {}).to_json())


def _interval(text: str, scale: Scale, n: int) -> Interval:
    """The interval that a table shows: ``Scale.text`` backwards."""
    shown = [float(number) for number in re.findall(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?", text.replace("−", "-"))]
    unit = 0.01 if scale in (Scale.POINTS, Scale.SHARE) else 1.0
    mean, low, high = (math.log(value) if scale is Scale.RATIO else unit * value for value in shown)
    return Interval(mean, low, high, n)


def main() -> None:
    """Train, and write the pictures into docs/images."""
    (HERE / "images").mkdir(exist_ok=True)
    photographer = Photographer()
    experiment = parse_experiment({**read_recipe("quickstart"), "observe": 10}, "quickstart")
    comparison = run_experiment(experiment, FOLDER, fresh="--fresh" in sys.argv, observer=photographer)
    sys.stdout.write(f"{comparison.answer}\n")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: no Chromium to photograph the report with; install one")
    report = comparison.folder.report_file
    photograph_both(chromium, report, "1060,1180", "report")
    inside = FOLDER / "inside.html"  # a picture begins at the top of a page: what is above is hidden
    inside.write_text(report.read_text(encoding="utf-8").replace("</head>", _FROM_INSIDE), encoding="utf-8")
    photograph_both(chromium, inside, "1060,1120", "report-inside")
    photograph_notebook(chromium, comparison)
    draw_intervals()
    draw_intervals(dark=True)
    terminal = FOLDER / "terminal.svg"
    if terminal.is_file():
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', terminal.read_text(encoding="utf-8"))
        photograph(
            chromium,
            terminal,
            ",".join(str(round(float(side))) for side in size.groups()),
            HERE / "images" / "terminal.png",
        )
    claims = FOLDER / "claims.html"
    claims.write_text(page_of_claims().replace("</head>", _TO_THE_PLOT), encoding="utf-8")
    photograph_both(chromium, claims, "1060,1440", "claims")
    sys.stdout.write(f"bnkit {bnkit.__version__}: pictures in {HERE / 'images'}\n")


if __name__ == "__main__":
    main()
