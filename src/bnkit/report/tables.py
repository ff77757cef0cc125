"""Tables of runs and epochs; columns that may be left out are marked. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.intervals.interval import Interval
from bnkit.report.contrasts.example_differences import mean_for_new_examples
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import RunOutcome, interval_over_seeds, matches, outcomes, points_of
from bnkit.text_table import Column, Table

Columns = tuple[Column | str, ...]
_NETWORK = Column("network", is_text=True)
# Follows an interval over seeds whose width is that of counting the test answers (``Interval.counted``).
_COUNTED = " counted"
_COUNTED_NOTE = (
    "counted: the number of test answers sets the width, because the seeds agree more closely than that number can show"
)


def summary_table(results: Results) -> Table:
    """A row for each setting and network: the mean on the test set at the end, its interval, and the number of failed runs."""
    keys, objective = setting_keys(results.plan), Objective.of(results.plan.task)
    rows, any_lost, any_new = [], False, False
    for values, by_network in runs_by_setting(results, keys):
        for network, runs in by_network.items():
            interval, lost = interval_over_seeds(runs), count_lost(runs)
            any_lost = any_lost or lost > 0
            mean, ends = _mean_over_seeds(interval, objective.text)
            new = mean_for_new_examples(runs)
            any_new = any_new or (new is not None and new.low is not None)
            n = 0 if interval is None else interval.n
            rows.append(
                (
                    network,
                    *map(format_setting, values),
                    mean,
                    ends,
                    _mean_and_ends(new, objective.text)[1],
                    str(n),
                    str(lost),
                )
            )
    columns: Columns = (
        *(_NETWORK, *(Column(key, 1, below=True) for key in keys)),
        *(
            "mean",
            Column("95 % interval", 2, below=True),
            *((Column("new examples", 3, below=True),) if any_new else ()),
        ),
        *(Column("n", 4), Column("failed", 0 if any_lost else 5)),
    )
    if not any_new:
        rows = [(*row[:-3], *row[-2:]) for row in rows]
    notes = (
        ("95 % interval: for these test examples; new examples: for others like them", any_new),
        (_COUNTED_NOTE, any(cell.endswith(_COUNTED) for row in rows for cell in row)),
        ("failed: runs that diverged or raised an error; the means exclude them", any_lost),
    )
    note = "; ".join(text for text, holds in notes if holds)
    return Table(columns, rows, f"Test {objective.name} at the end, the mean over seeds", note)


def runs_table(results: Results, most: int | None = None, others: str = "results.csv has them") -> Table:
    """A row for each run that began, best on the test set first; unfinished runs come last.

    If earlier calls left runs, the column ``call`` says which belong to "this" call.

    Args:
        results: The runs.
        most: The number of rows, best first; None for all.
        others: A note about where the other runs are.
    """
    objective, keys = Objective.of(results.plan.task), setting_keys(results.plan)
    began = [
        (run, results.records[run.run_id])
        for run in results.plan
        if run.run_id in results.records and results.records[run.run_id].status
    ]
    began.sort(key=lambda entry: objective.order(objective.test(entry[1].last) if entry[1].last else None))
    shown = began[:most]
    has_earlier = results.own is not None
    rows = [
        (
            *_run_row(run, record, keys, objective),
            *(("this" if results.is_own(run) else "earlier",) if has_earlier else ()),
        )
        for run, record in shown
    ]
    all_finished = all(record.status is Status.FINISHED for _, record in shown)
    columns: Columns = (
        *("run", _NETWORK),
        *(*(Column(key, 1) for key in keys), Column("seed", 2)),
        *(Column("epochs", 5), Column("loss", 6), Column(objective.name, 3), f"test {objective.name}"),
        *(Column("population", 4), Column("s/epoch", 7), Column("examples/s", 8)),
        Column("status", 9 if all_finished else 1),
        *((Column("call", 2, is_text=True),) if has_earlier else ()),
    )
    if len(shown) == len(began):
        return Table(columns, rows, "All runs, best first")
    return Table(columns, rows, "The best runs", f"… {len(began) - len(shown):,} more: {others}")


def epochs_table(results: Results) -> Table:
    """A row for each run and epoch with the course's columns, best in training first."""
    objective = Objective.of(results.plan.task)
    settings = ("lr", "batch_size", "num_workers", "device", "trainset")
    columns: Columns = (
        *("run", "epoch", Column("loss", 2), objective.name, Column(f"test {objective.name}", 1)),
        *(Column("epoch duration", 4), Column("run duration", 5), Column("lr", 2)),
        *(Column(name.replace("_", " "), 6) for name in settings[1:]),
        *(Column("seed", 3), Column("network", 1)),
    )
    every = [(run, epoch) for run in results.plan for epoch in results.records.get(run.run_id, Record()).epochs]
    every.sort(key=lambda entry: objective.order(objective.training(entry[1])))
    rows = [
        (
            *(str(run.number), str(epoch.epoch), format_value(epoch.loss)),
            *(format_value(objective.training(epoch)), format_value(objective.test(epoch))),
            *(f"{epoch.epoch_duration:.2f}", f"{epoch.run_duration:.2f}"),
            *(format_setting(getattr(run.settings, name)) for name in settings),
            *(str(run.seed), run.network.key),
        )
        for run, epoch in every
    ]
    return Table(columns, rows, "All runs and epochs, best in training first")


def first_layer_table(results: Results) -> Table:
    """For each run with batch norm, gamma and beta of its first one as learned."""
    first_layers = [
        (run, results.records[run.run_id].first_layer) for run in results.plan if run.run_id in results.records
    ]
    rows = [
        (
            *(str(run.number), run.network.key, str(run.seed), layer["site"]),
            *(
                " ".join("–" if value is None else f"{value:.2f}" for value in layer[name])
                for name in ("gamma", "beta")
            ),
        )
        for run, layer in first_layers
        if layer is not None
    ]
    columns: Columns = (
        *("run", _NETWORK, Column("seed", 2), Column("layer", 2, is_text=True)),
        *(Column.of_sentences("gamma"), Column.of_sentences("beta")),
    )
    return Table(columns, rows, "gamma and beta of the first batch norm")


def losses_table(results: Results) -> Table:
    """For each run and epoch in their order, the line that the course's training loop prints."""
    rows = [
        (
            *(str(run.number), run.network.key, str(run.seed)),
            f"Epoch [{epoch.epoch}/{run.epochs}], Loss: {'nan' if epoch.loss is None else f'{epoch.loss:.4f}'}",
        )
        for run in results.plan
        for epoch in results.records.get(run.run_id, Record()).epochs
    ]
    columns: Columns = ("run", Column("network", 2), Column("seed", 3), Column.of_sentences("line"))
    return Table(columns, rows, "The loss of every epoch")


def crossed_table(results: Results) -> Table:
    """A row for each setting: each network's mean on the test set at the end, with its 95 % interval.

    The mean excludes runs that diverged or failed; their number follows it.
    """
    keys, networks = results.plan.varying or ("lr",), results.plan.networks
    every = outcomes(results)
    rows = [
        (
            *map(format_setting, point.values()),
            *(
                _mean_cell([o for o in every if o.run.network.key == network and matches(o.run.settings, point)])
                for network in networks
            ),
        )
        for point in points_of(results.plan, keys)
    ]
    columns: Columns = (*keys, *(Column(network, 1, below=True) for network in networks))
    note = _COUNTED_NOTE if any(_COUNTED in cell for row in rows for cell in row) else ""
    return Table(columns, rows, "On the test set at the end: means over the seeds, 95 % intervals", note)


# The tables that an experiment can request with `show`.
FURTHER_TABLES: dict[str, Callable[[Results], Table]] = {
    "epochs": epochs_table,
    "first_layer": first_layer_table,
    "crossed": crossed_table,
    "losses": losses_table,
}


def further_tables(results: Results) -> dict[str, Table]:
    """The tables that the experiment asks for with ``show``, by title."""
    tables = (FURTHER_TABLES[name](results) for name in results.plan.experiment.show)
    return {table.title: table for table in tables}


def format_value(value: float | None) -> str:
    """A loss or an accuracy with three or four digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.4f}" if value < 100 else f"{value:.3g}"


def format_setting(value: object) -> str:
    """A setting as a user would type it; a dash if it has no effect."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting_keys(plan: Plan) -> tuple[str, ...]:
    """The settings that a table of runs shows: the learning rate, and those that vary."""
    varying = plan.varying
    return tuple(key for key in plan.experiment.grid.explicit_keys if key == "lr" or key in varying)


def runs_by_setting(
    results: Results, keys: Sequence[str]
) -> Iterator[tuple[tuple[object, ...], dict[str, list[RunOutcome]]]]:
    """Each setting of ``keys`` with its runs by network; these runs differ only in their seeds."""
    groups: dict[tuple[object, ...], dict[str, list[RunOutcome]]] = {}
    for outcome in outcomes(results):
        values = tuple(getattr(outcome.run.settings, key) for key in keys)
        groups.setdefault(values, {}).setdefault(outcome.run.network.key, []).append(outcome)
    yield from groups.items()


def _mean_and_ends(interval: Interval | None, text: Callable[[float], str]) -> tuple[str, str]:
    """A mean and its interval; dashes for None."""
    if interval is None:
        return "–", "–"
    if interval.low is None or interval.high is None:
        return text(interval.mean), "–"
    return text(interval.mean), f"[{text(interval.low)}, {text(interval.high)}]"


def _mean_over_seeds(interval: Interval | None, text: Callable[[float], str]) -> tuple[str, str]:
    """A mean and its interval over seeds, which says if its width comes from counting the test answers."""
    mean, ends = _mean_and_ends(interval, text)
    return mean, ends if interval is None or interval.counted is None else f"{ends}{_COUNTED}"


def count_lost(runs: Sequence[RunOutcome]) -> int:
    """How many of ``runs`` diverged or failed."""
    return sum(outcome.record.status in (Status.DIVERGED, Status.FAILED) for outcome in runs)


def _mean_cell(runs: Sequence[RunOutcome]) -> str:
    lost = count_lost(runs)
    mean, ends = _mean_over_seeds(interval_over_seeds(runs), "{:.4f}".format)
    return f"{mean}{'' if ends == '–' else f' {ends}'}{f', {lost} of {len(runs)} lost' if lost else ''}"


def _run_row(run: Run, record: Record, keys: Sequence[str], objective: Objective) -> tuple[str, ...]:
    last = record.last
    status = record.status.value if record.status else "–"
    head = (
        str(run.number),
        run.network.key,
        *(format_setting(getattr(run.settings, key)) for key in keys),
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
