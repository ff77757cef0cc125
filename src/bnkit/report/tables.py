"""Tables of runs and epochs: plain rows first, then as Rich shows them. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.table import Table
from rich.text import Text

from bnkit.experiments.plan import Run
from bnkit.experiments.records.record import Epoch, Record, Status
from bnkit.report.objective import Objective
from bnkit.report.outcomes import RunOutcome, interval_over_seeds, matches, outcomes, points_of
from bnkit.report.results import Results

Row = tuple[str, ...]


def runs_table(results: Results) -> tuple[Row, list[Row]]:
    """The header and a row for each run that began, best on the test set first; runs without an end come last.

    Where earlier calls left runs, the column ``call`` says which are of "this" call.
    """
    objective = Objective.of(results.plan.task)
    varying = tuple(
        key for key in results.plan.experiment.grid.explicit_keys if key == "lr" or key in results.plan.varying
    )
    header = (
        *("run", "network", *varying, "seed", "epochs", "loss", objective.name, f"test {objective.name}", "population"),
        *("s/epoch", "examples/s", "status"),
        *(() if results.own is None else ("call",)),
    )
    began = [
        (run, results.records[run.run_id])
        for run in results.plan
        if run.run_id in results.records and results.records[run.run_id].status
    ]
    began.sort(key=lambda entry: objective.order(objective.test(entry[1].last) if entry[1].last else None))
    return header, [
        (
            *_run_row(run, record, varying, objective),
            *(() if results.own is None else ("this" if results.is_own(run) else "earlier",)),
        )
        for run, record in began
    ]


def epochs_table(results: Results) -> tuple[Row, list[Row]]:
    """The header and a row for each run and epoch in the course's columns, best in training first."""
    objective = Objective.of(results.plan.task)
    settings = ("lr", "batch_size", "num_workers", "device", "trainset")
    header = (
        *("run", "epoch", "loss", objective.name, f"test {objective.name}", "epoch duration", "run duration"),
        *(name.replace("_", " ") for name in settings),
        *("seed", "network"),
    )
    every = [(run, epoch) for run in results.plan for epoch in results.records.get(run.run_id, Record()).epochs]
    every.sort(key=lambda entry: objective.order(objective.training(entry[1])))
    return header, [
        (
            *(
                str(run.number),
                str(epoch.epoch),
                format_value(epoch.loss),
                format_value(objective.training(epoch)),
                format_value(objective.test(epoch)),
            ),
            *(f"{epoch.epoch_duration:.2f}", f"{epoch.run_duration:.2f}"),
            *(format_setting(getattr(run.settings, name)) for name in settings),
            *(str(run.seed), run.network.key),
        )
        for run, epoch in every
    ]


def first_layer_table(results: Results) -> tuple[Row, list[Row]]:
    """The header and, for each run with batch norm, gamma and beta of its first one as learned."""
    found = [(run, results.records[run.run_id].first_layer) for run in results.plan if run.run_id in results.records]
    return ("run", "network", "seed", "layer", "gamma", "beta"), [
        (
            *(str(run.number), run.network.key, str(run.seed), layer["site"]),
            *(
                " ".join("–" if value is None else f"{value:.2f}" for value in layer[name])
                for name in ("gamma", "beta")
            ),
        )
        for run, layer in found
        if layer is not None
    ]


def losses_table(results: Results) -> tuple[Row, list[Row]]:
    """The header and, for each run and epoch in their order, the line that the course's training loop prints."""
    return ("run", "network", "seed", "line"), [
        (
            str(run.number),
            run.network.key,
            str(run.seed),
            f"Epoch [{epoch.epoch}/{run.epochs}], Loss: {'nan' if epoch.loss is None else f'{epoch.loss:.4f}'}",
        )
        for run in results.plan
        for epoch in results.records.get(run.run_id, Record()).epochs
    ]


def crossed_table(results: Results) -> tuple[Row, list[Row]]:
    """The header and a row for each setting: each network's mean on the test set at the end, with its 95 % interval.

    A run that diverged or failed is in no mean; how many there are of them stands behind it.
    """
    varying = results.plan.varying or ("lr",)
    every = outcomes(results)
    return (*varying, *results.plan.networks), [
        (
            *map(format_setting, point.values()),
            *(
                _mean_cell([o for o in every if o.run.network.key == network and matches(o.run.settings, point)])
                for network in results.plan.networks
            ),
        )
        for point in points_of(results.plan, varying)
    ]


# What an experiment may ask for with `show`: the title and the table.
FURTHER_TABLES: dict[str, tuple[str, Callable[[Results], tuple[Row, list[Row]]]]] = {
    "epochs": ("All runs and epochs, best in training first", epochs_table),
    "first_layer": ("gamma and beta of the first batch norm", first_layer_table),
    "crossed": ("On the test set at the end: means over the seeds, 95 % intervals", crossed_table),
    "losses": ("The loss of every epoch", losses_table),
}


def further_tables(results: Results) -> dict[str, tuple[Row, list[Row]]]:
    """The tables that the experiment asks for with ``show``, by title."""
    return {FURTHER_TABLES[name][0]: FURTHER_TABLES[name][1](results) for name in results.plan.experiment.show}


def as_rich(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table for a terminal: figures to the right, words to the left."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        right = all(_looks_like_a_number(row[index]) for row in rows)
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def format_value(value: float | None) -> str:
    """A loss or an accuracy with three or four digits; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4f}" if value < 100 else f"{value:.3g}"


def format_setting(value: object) -> str:
    """A setting as one would type it; a dash where it has no effect."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mean_cell(runs: Sequence[RunOutcome]) -> str:
    lost = sum(outcome.record.status in (Status.DIVERGED, Status.FAILED) for outcome in runs)
    interval = interval_over_seeds(runs)
    if interval is None:
        text = "–"
    elif interval.low is None or interval.high is None:
        text = f"{interval.mean:.4f}"
    else:
        text = f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
    return f"{text}, {lost} of {len(runs)} lost" if lost else text


def _run_row(run: Run, record: Record, varying: Sequence[str], objective: Objective) -> Row:
    last = record.last
    status = record.status.value if record.status else "–"
    head = (
        str(run.number),
        run.network.key,
        *(format_setting(getattr(run.settings, key)) for key in varying),
        str(run.seed),
    )
    if last is None:
        return (*head, *("–",) * 7, status)
    return (
        *head,
        *(
            str(last.epoch),
            format_value(last.loss),
            format_value(objective.training(last)),
            format_value(objective.test(last)),
        ),
        format_value(objective.population(last)),
        *(f"{last.run_duration / last.epoch:.3g}", _rate(record.epochs)),
        status,
    )


def _rate(epochs: Sequence[Epoch]) -> str:
    """Examples per second over the whole run."""
    seconds = sum(epoch.epoch_duration for epoch in epochs)
    examples = sum((epoch.examples_per_second or 0.0) * epoch.epoch_duration for epoch in epochs)
    return f"{examples / seconds:,.0f}" if seconds > 0 else "–"


def _looks_like_a_number(text: str) -> bool:
    return text == "–" or text.replace(",", "").replace(".", "").replace("e-", "").replace("−", "").isdigit()
