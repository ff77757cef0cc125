"""Runs with their records, and the settings under which they are compared. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.experiments.run_settings import Settings
from bnkit.intervals.interval import Interval
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results


@dataclass(frozen=True)
class RunOutcome:
    """A run and its record.

    Attributes:
        run, record: The run and its record.
        test_examples: The number of examples to which the experiment reduces the test set; 0 for all of them.
    """

    run: Run
    record: Record
    test_examples: int = 0

    @property
    def final(self) -> Epoch | None:
        """The figures of its last epoch; None if it did not finish or its measure is undefined."""
        last = self.record.last
        if self.record.status is not Status.FINISHED or last is None or self.objective.test(last) is None:
            return None
        return last

    @property
    def objective(self) -> Objective:
        """The measure that it is judged by."""
        return Objective.of(self.run.task)

    @property
    def test(self) -> float:
        """The measure on the test set at the end.

        Raises:
            ValueError: ``final`` is None.
        """
        value = None if self.final is None else self.objective.test(self.final)
        if value is None:
            raise ValueError(f"run {self.run.number} has no {self.objective.name} at its end")
        return value

    @property
    def is_undefined(self) -> bool:
        """Whether it finished and its measure on the test set is not finite."""
        return self.record.status is Status.FINISHED and self.record.last is not None and self.final is None

    @property
    def answers(self) -> int | None:
        """The number of answers of its test accuracy; None if it is not known."""
        return (None if self.final is None else self.final.test_answers) or self.test_examples or None

    @property
    def training_answers(self) -> int | None:
        """The number of answers of its training accuracy."""
        return None if self.final is None else self.final.answers

    @property
    def validation_answers(self) -> int | None:
        """The number of answers of its validation accuracy, in proportion to the share of the examples."""
        share, answers = self.run.validation, self.training_answers
        return None if answers is None else round(answers * share / (1 - share)) or None

    @property
    def constant(self) -> float | None:
        """The score of the best constant answer on the test set; None if it is not known."""
        return None if self.final is None else self.objective.constant(self.final)

    @property
    def training(self) -> float | None:
        """The measure over the training batches of the last epoch; None if it is not finite."""
        return None if self.final is None else self.objective.training(self.final)

    @property
    def fit(self) -> float | None:
        """The measure on the training part, evaluated like the test set; None if the experiment does not ask for it."""
        return None if self.final is None else self.objective.fit(self.final)

    @property
    def validation(self) -> float | None:
        """The measure on the validation part at the end; None without one."""
        return None if self.final is None else self.objective.validation(self.final)


def outcomes(results: Results) -> list[RunOutcome]:
    """Every run of ``results`` with its record, which is empty if the run has none."""
    examples = results.plan.experiment.test_examples
    return [RunOutcome(run, results.records.get(run.run_id, Record()), examples) for run in results.plan]


def interval_over_seeds(runs: Iterable[RunOutcome]) -> Interval | None:
    """The mean measure on the test set over the finished ones of ``runs``, with its 95 % interval."""
    ended = [outcome for outcome in runs if outcome.final is not None]
    if not ended:
        return None
    return ended[0].objective.interval([outcome.test for outcome in ended], fewest(o.answers for o in ended))


def fewest(counts: Iterable[int | None]) -> int | None:
    """The smallest known count; None if no count is known."""
    return min((count for count in counts if count is not None), default=None)


def settings_of(plan: Plan) -> list[Mapping[str, object]]:
    """The combinations of the grid keys that vary, except lr."""
    return points_of(plan, [key for key in plan.varying if key != "lr"])


def points_of(runs: Iterable[Run], keys: Iterable[str]) -> list[Mapping[str, object]]:
    """The combinations of ``keys`` that ``runs`` have, in their order.

    A run on which a key has no effect (None) is part of every combination that agrees with it in the others.
    """
    keys = tuple(keys)
    combinations = dict.fromkeys(tuple(getattr(run.settings, key) for key in keys) for run in runs)
    full = [values for values in combinations if None not in values]
    return [
        dict(zip(keys, values, strict=True))
        for values in combinations
        if None not in values or not any(_agree(values, other) for other in full)
    ]


def matches(settings: Settings, setting: Mapping[str, object]) -> bool:
    """Whether ``settings`` agree with ``setting``; a key without effect (None) agrees with every value."""
    return _agree(tuple(getattr(settings, key) for key in setting), tuple(setting.values()))


def _agree(values: tuple[object, ...], others: tuple[object, ...]) -> bool:
    return all(value is None or value == other for value, other in zip(values, others, strict=True))
