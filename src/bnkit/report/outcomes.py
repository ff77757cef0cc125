"""Runs beside what came out of them, and the settings by which they are set against each other. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import Epoch, Record, Status
from bnkit.experiments.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """A run and what came out of it."""

    run: Run
    record: Record

    @property
    def final(self) -> Epoch | None:
        """The figures of its last epoch, if it finished."""
        return self.record.last if self.record.status is Status.FINISHED else None

    @property
    def test_accuracy(self) -> float:
        """At the end of a run that finished."""
        return self._of_final("test_accuracy")

    @property
    def accuracy(self) -> float:
        """Over the training batches of the last epoch of a run that finished."""
        return self._of_final("accuracy")

    @property
    def validation_accuracy(self) -> float | None:
        """At the end of a run that finished; None without a validation part."""
        return self.final.validation_accuracy if self.final is not None else None

    def _of_final(self, name: str) -> float:
        value: float | None = getattr(self.final, name, None)
        if value is None:
            raise ValueError(f"run {self.run.number} did not finish: it has no final {name}")
        return value


def outcomes(plan: Plan, records: Mapping[str, Record]) -> list[Outcome]:
    """Every run of ``plan`` with its record; an empty one where there is none."""
    return [Outcome(run, records.get(run.run_id, Record())) for run in plan]


def settings_of(plan: Plan) -> list[Mapping[str, object]]:
    """The combinations of all grid keys but lr, each with only the keys that vary."""
    varying = [key for key in plan.varying if key != "lr"]
    combinations = {tuple(getattr(run.settings, key) for key in varying): None for run in plan}
    return [dict(zip(varying, values, strict=True)) for values in combinations]


def matches(settings: Settings, setting: Mapping[str, object]) -> bool:
    """Whether ``settings`` have the values of ``setting``."""
    return all(getattr(settings, key) == value for key, value in setting.items())
