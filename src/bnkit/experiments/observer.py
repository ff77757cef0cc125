"""What a comparison tells while it runs. Needs no torch."""

from __future__ import annotations

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import Epoch, Record


class Observer:
    """Somebody who watches; this one says nothing. A display overrides what it wants to know."""

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        """The runs begin; ``done`` are those that were complete already."""

    def run_started(self, run: Run, record: Record) -> None:
        """A run begins, or goes on behind what ``record`` holds."""

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        """A step was taken, on so many examples. Called for every step: has to return at once."""

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        """An epoch was measured and written down."""

    def run_ended(self, run: Run, record: Record) -> None:
        """A run is finished, diverged or failed."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line."""
