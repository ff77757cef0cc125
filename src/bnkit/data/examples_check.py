"""Reject data that no network can learn from: non-finite values, or inputs that are all the same."""

from __future__ import annotations

from torch import Tensor

from bnkit.data.labels import check_labels, unique_labels
from bnkit.errors import DataError
from bnkit.message_parts import plural

# Values checked at a time, so that a large split is not copied as a whole.
_VALUES_AT_ONCE = 2**22


class ExamplesCheck:
    """Checks the examples of a split, batch by batch.

    Args:
        name: The name of the split in messages.

    Attributes:
        labels: The class numbers that occur; None if the targets are floating, or before the first batch.
        constant_targets: Whether all targets are the same.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._examples = 0
        self._first: tuple[Tensor, Tensor] | None = None
        self._inputs_alike = True
        self.constant_targets = True
        self._bad = {"inputs": _NotFinite(), "targets": _NotFinite()}
        self.labels: set[int] | None = None

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, name: str) -> ExamplesCheck:
        """The check of all examples of a split in memory.

        Raises:
            DataError: As ``finish``.
        """
        examples_check = cls(name)
        rows = max(1, _VALUES_AT_ONCE // max(1, inputs[:1].numel(), targets[:1].numel()))
        for start in range(0, len(inputs), rows):
            examples_check.add(inputs[start : start + rows], targets[start : start + rows])
        examples_check.finish()
        return examples_check

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Check the next batch."""
        for what, values in (("inputs", inputs), ("targets", targets)):
            self._bad[what].add(values, self._examples)
        if not targets.is_floating_point():
            self.labels = (self.labels or set()) | unique_labels(targets)
        if self._first is None:
            self._first = inputs[:1], targets[:1]
        self._inputs_alike = self._inputs_alike and _all_equal(inputs, self._first[0])
        self.constant_targets = self.constant_targets and _all_equal(targets, self._first[1])
        self._examples += len(inputs)

    def finish(self) -> None:
        """Raise for what is wrong with the batches added.

        Raises:
            DataError: If inputs or targets are NaN or inf, labels are negative, or all of several inputs are the same.
        """
        for what, bad in self._bad.items():
            if bad.values:
                raise DataError(
                    f"{self._name} has {what} that are inf or NaN: {bad}; expected finite numbers: leave these "
                    "examples out, or give them numbers (torch.nan_to_num)"
                )
        if self.labels:
            check_labels(self.labels, self._name)
        if self._inputs_alike and self._examples > 1:
            raise DataError(
                f"the {self._examples} inputs of {self._name} are all the same; expected inputs that differ in float32: "
                "look at what is read, and how it is scaled"
            )


class _NotFinite:
    """Counts the values that are not finite as float32, and remembers the first."""

    def __init__(self) -> None:
        self.values = self._examples = self._row = 0
        self._what = ""

    def add(self, batch: Tensor, before: int) -> None:
        if not batch.is_floating_point():
            return
        finite = batch.float().isfinite()
        if bool(finite.all()):
            return
        wrong = ~finite
        if not self.values:
            row, *position = (int(index) for index in wrong.nonzero()[0])
            value = float(batch[(row, *position)])
            too_large = ", too large for float32" if abs(value) < float("inf") else ""
            self._row, self._what = before + row, f"{value:g} at {position}{too_large}"
        self.values += int(wrong.sum())
        self._examples += int(wrong.flatten(1).any(1).sum())

    def __str__(self) -> str:
        """The number of values and examples, and where the first is."""
        where = f"the first in example {self._row} ({self._what})"
        return f"{plural(self.values, 'value')} in {plural(self._examples, 'example')}, {where}"


def _all_equal(rows: Tensor, first: Tensor) -> bool:
    """Whether each of ``rows`` equals ``first``, of shape (1, *), in float32 if floating."""
    if rows.is_floating_point():
        first = first.float()
    # The second one usually differs; then the others need not be compared.
    return all(bool((part.to(first.dtype) == first).all()) for part in (rows[:2], rows[2:]))
