"""The costs of a model's batch norms, and the savings by bnkit's functions, as printable values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from bnkit.message_parts import plural
from bnkit.model.instrument.interleaved_timing import ROUNDS_FOR_AN_INTERVAL, Interval
from bnkit.notebook_html import output, paragraph, wide
from bnkit.text_table import Column, Table

_NOTHING = "–"


@dataclass(frozen=True)
class BatchNormCost:
    """The cost of one batch norm of a model in a training step.

    Attributes:
        site: Its dotted name.
        kind: Its class, and the activation fused into it.
        channels: The number of channels; None for a layer that is not recognised.
        before: The names of the layers that feed it; "input" if there are none.
        after: The activation that follows, and the layers that it feeds.
        calls: The number of calls in a step.
        parameters: The number of values in gamma and beta.
        forward_ms, backward_ms: Milliseconds in a training step, over all calls.
        share: Its share of the time of the whole model's step, from 0 to 1; the milliseconds are this share of ``step_ms``.
        share_range: The 95 % interval of the share; with fewer than 6 rounds, the lowest and the highest share.
        bytes_kept: The bytes that it keeps for the backward pass, without those that an earlier layer keeps too.
        fold: The result of ``bnkit.fold``, or why it is not possible.
        fold_saves_ms: Milliseconds saved in an evaluation by folding it; None if it is not folded.
        convert: The result of ``bnkit.convert``, or why it is not possible.
        recompute_saves_bytes: The bytes that ``bnkit.recompute`` saves on its output and on the operations up to the
            next batch norm.
    """

    site: str
    kind: str
    channels: int | None
    before: str
    after: str
    calls: int
    parameters: int
    forward_ms: float
    backward_ms: float
    share: float
    bytes_kept: int
    fold: str
    fold_saves_ms: float | None
    convert: str
    recompute_saves_bytes: int
    share_range: Interval | None = None


@dataclass(frozen=True)
class Saving:
    """The saving of one of bnkit's functions for the whole model, measured in interleaved rounds.

    Attributes:
        verb: "convert", "recompute" or "fold".
        what: The timed work: "a training step" or "an evaluation".
        ms_before, ms_after: Its duration in milliseconds; None if the function is not applicable. The second is the first
            times the median ratio.
        ratio: The duration after divided by that before in the same round: the median, between the ends of its 95 %
            interval; with fewer than 6 rounds, between the lowest and the highest ratio.
        bytes_before, bytes_after: The bytes kept for the backward pass, for "recompute".
        why_not: Why the function is not applicable; empty if it is.
        rounds: The number of rounds.
    """

    verb: str
    what: str
    ms_before: float | None = None
    ms_after: float | None = None
    ratio: tuple[float, float, float] | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    why_not: str = ""
    rounds: int = 1

    @property
    def line(self) -> str:
        """The saving in one line."""
        if self.ms_before is None or self.ms_after is None or self.ratio is None:
            return f"{self.verb}: not possible here: {self.why_not}"
        kept = ""
        if self.bytes_before and self.bytes_after is not None:
            kept = f"{_megabytes(self.bytes_after)} of {_megabytes(self.bytes_before)} MB kept for backward; "
        low, middle, high = self.ratio
        times = f"{self.what} takes {_ms(self.ms_after)} ms instead of {_ms(self.ms_before)} ms"
        if self.rounds == 1:
            return f"{self.verb}: {kept}{times} ({_change(middle)} in one round)"
        spread = f"{_spread_name(self.rounds)} {_change(low)} to {_change(high)}"
        if low <= 1 <= high:
            return f"{self.verb}: {kept}{times}, no clear difference: {spread}"
        return f"{self.verb}: {kept}{times} ({_change(middle)}; {spread})"


def _spread_name(rounds: int) -> str:
    return "95 % interval" if rounds >= ROUNDS_FOR_AN_INTERVAL else f"{rounds} rounds from"


def _change(ratio: float) -> str:
    if ratio >= 3:
        return f"{ratio:.3g} times as much"
    return f"{abs(ratio - 1):.0%} {'less' if ratio < 1 else 'more'}"


class BatchNormCosts(Sequence[BatchNormCost]):
    """The costs of a model's batch norms: prints as a table, converts to JSON, displays in a notebook.

    Args:
        entries: The batch norms, in the order in which they first run.
        step_ms: Milliseconds of a training step of the whole model: forward and backward.
        bytes_kept: The bytes that the whole model keeps for the backward pass.
        savings: The savings by convert, recompute and fold.
        measured: How it was measured, in one line.
        share_range: The interval of the share of all batch norms together.
        rounds: The number of rounds.

    Attributes:
        step_ms, bytes_kept, savings, measured, share_range, rounds: See the arguments.
    """

    def __init__(
        self,
        entries: Sequence[BatchNormCost],
        *,
        step_ms: float,
        bytes_kept: int,
        savings: Sequence[Saving],
        measured: str,
        share_range: Interval | None = None,
        rounds: int = 1,
    ) -> None:
        self._entries = tuple(entries)
        self.step_ms, self.bytes_kept = step_ms, bytes_kept
        self.savings, self.measured = tuple(savings), measured
        self.share_range, self.rounds = share_range, rounds

    @overload
    def __getitem__(self, index: int) -> BatchNormCost: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BatchNormCost]: ...
    def __getitem__(self, index: int | slice) -> BatchNormCost | Sequence[BatchNormCost]:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def totals(self) -> dict[str, Any]:
        """The sums over the batch norms: parameters, forward_ms, backward_ms, share, bytes_kept."""
        keys = ("parameters", "forward_ms", "backward_ms", "share", "bytes_kept")
        return {key: sum(getattr(entry, key) for entry in self) for key in keys}

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "batch_norms": [asdict(entry) for entry in self],
            "totals": self.totals,
            "share_range": self.share_range,
            "step_ms": self.step_ms,
            "bytes_kept": self.bytes_kept,
            "savings": [asdict(saving) for saving in self.savings],
            "measured": self.measured,
        }

    def rows(self) -> Table:
        """A row for each batch norm. If the table is too wide, the least important columns are dropped."""
        columns = (
            Column("site", is_text=True),
            Column("kind", priority=4, is_text=True),
            Column("channels", priority=5),
            Column("before", priority=6, is_text=True),
            Column("after", priority=6, is_text=True),
            Column("parameters", priority=7),
            Column("forward ms", priority=2),
            Column("backward ms", priority=2),
            Column("share"),
            Column("kept MB", priority=1),
            Column("fold saves ms", priority=3),
            Column("recompute saves MB", priority=3),
        )
        return Table(columns, [_row(entry) for entry in self])

    @property
    def lines(self) -> tuple[str, ...]:
        """Totals, savings, where folding is not possible, and how it was measured."""
        totals = self.totals
        spread = ""
        if self.share_range is not None and self.rounds > 1:
            low, high = self.share_range
            spread = f"{_spread_name(self.rounds)} {low:.1%} to {high:.1%}; "
        time = (
            f"{totals['share']:.1%} of a training step of {_ms(self.step_ms)} ms ({spread}forward "
            f"{_ms(totals['forward_ms'])} ms, backward {_ms(totals['backward_ms'])} ms)"
        )
        kept = f"{_megabytes(totals['bytes_kept'])} of {_megabytes(self.bytes_kept)} MB kept for backward"
        return (
            f"{plural(len(self), 'batch norm')}: {time}, {kept}, {plural(totals['parameters'], 'parameter')}",
            *(saving.line for saving in self.savings),
            *self._not_folded(),
            self.measured,
        )

    def _not_folded(self) -> Iterator[str]:
        reasons: dict[str, list[str]] = {}
        for entry in self:
            if entry.fold_saves_ms is None and any(
                saving.verb == "fold" and not saving.why_not for saving in self.savings
            ):
                reasons.setdefault(entry.fold, []).append(entry.site or "(the model)")
        for reason, sites in reasons.items():
            yield f"fold: not possible for {', '.join(sites)}: {reason}"

    def __str__(self) -> str:
        return "\n".join([str(self.rows()), *self.lines])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return output(wide(self.rows(), "figures"), *(paragraph(line, "note") for line in self.lines))


def _row(entry: BatchNormCost) -> tuple[str, ...]:
    return (
        entry.site or "(the model)",
        entry.kind,
        _NOTHING if entry.channels is None else f"{entry.channels:,}",
        entry.before,
        entry.after,
        f"{entry.parameters:,}",
        _ms(entry.forward_ms),
        _ms(entry.backward_ms),
        f"{entry.share:.1%}",
        _megabytes(entry.bytes_kept),
        _NOTHING if entry.fold_saves_ms is None else _ms(entry.fold_saves_ms),
        _megabytes(entry.recompute_saves_bytes),
    )


def _ms(value: float) -> str:
    return (
        f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.3f}"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}" if count >= 1e8 else f"{count / 1e6:.3g}"
