"""The line that says which data a user's network is trained on, if no option says so."""

from __future__ import annotations

from bnkit.console import stderr_console
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.import_user_function import is_factory_name


class DefaultDataNote(Callback):
    """Prints the line when the runs begin: before, a mistake would not be one line by itself."""

    def __init__(self, line: str) -> None:
        self._line = line

    @classmethod
    def of(cls, what: str, experiment: Experiment, data: str | None, *, is_silent: bool) -> DefaultDataNote:
        """The note for a comparison of ``what``; it prints nothing if there is nothing to say, or if ``is_silent``."""
        is_default = data is None and is_factory_name(what) and not is_silent
        return cls(f"data: {experiment.data}, which come with bnkit; --data names others" if is_default else "")

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        """Print the line, once."""
        self.show()

    def show(self) -> None:
        """Print the line, once."""
        if self._line:
            stderr_console().print_sentences(self._line)
        self._line = ""
