"""The plan that ``bnkit compare --dry-run`` prints."""

from __future__ import annotations

from pathlib import Path

from bnkit.comparison.choose_next_runs import first_round, most_runs, rule_in_words
from bnkit.console import stdout_console
from bnkit.experiments.plan import Plan
from bnkit.message_parts import plural
from bnkit.report.tables import format_setting
from bnkit.text_table import Column, Table

# For a plan with more runs than this, it shows the first and the last.
_MOST_ROWS, _FIRST_ROWS, _LAST_ROWS = 200, 40, 10


def print_plan(plan: Plan, folder: Path, *, as_json: bool, in_memory: bool) -> None:
    """Print the runs of ``plan`` as a table or as JSON, and what they add up to."""
    most = plan
    plan = first_round(plan)
    keys = plan.experiment.grid.explicit_keys
    if as_json:
        runs = [{"run": run.number, "run_id": run.run_id, **run.content, "network": run.network.key} for run in plan]
        rule = {} if plan is most else {"runs_at_most": most_runs(most)}
        stdout_console().print_json(data={"folder": str(folder), "runs": runs, **rule})
        return
    settings = [Column(key, 1) for key in keys]
    columns: tuple[Column | str, ...] = (
        *("run", Column("run id", 3), Column("network", is_text=True)),
        *settings,
        Column("seed", 2),
    )
    rows = [
        (
            *(str(run.number), run.run_id, run.network.key),
            *(format_setting(getattr(run.settings, key)) for key in keys),
            str(run.seed),
        )
        for run in (plan.runs if len(plan) <= _MOST_ROWS else (*plan.runs[:_FIRST_ROWS], *plan.runs[-_LAST_ROWS:]))
    ]
    if len(rows) < len(plan):
        rows.insert(_FIRST_ROWS, ("…",) * len(columns))
    console = stdout_console()
    table = Table(columns, rows)
    if len(plan) > _MOST_ROWS:
        note = f"{len(plan) - _FIRST_ROWS - _LAST_ROWS:,} runs are left out here; --json prints all"
        table = table.titled("", note)
    console.print_table(table)
    count, each = plural(len(plan), "run"), plural(plan.experiment.epochs, "epoch")
    console.print_sentences(f"\n{count} of {each}, {sum(run.epochs for run in plan):,} in all, into {folder}")
    if plan is not most:
        console.print_sentences(rule_in_words(most))
    if in_memory and any(count > 0 for count in plan.experiment.grid.num_workers):
        console.print_sentences("num_workers has no effect here: the data are held in memory")
