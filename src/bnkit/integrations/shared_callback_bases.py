"""What the callbacks for different trainers share: arguments, and what they do to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bnkit.checks.findings_output import Findings
from bnkit.checks.training_monitor import Monitor
from bnkit.errors import SettingsError
from bnkit.integrations.training_batches import DEFAULT_LIMIT, TrainingBatches
from bnkit.model.edit.freeze import freeze
from bnkit.model.inspect.batches import Forward
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.statistics.recalibrate import recalibrate
from bnkit.model.statistics.running_stats_drift import Recalibration
from bnkit.model.statistics.temporary_recalibration import restore_statistics, running_statistics


class Monitors:
    """Base of the callbacks that check the model while it trains.

    Args:
        every, on_findings, options: As for ``bnkit.Monitor``.

    Attributes:
        monitor: The monitor of the present or the last training; None before the first.
    """

    def __init__(
        self, every: int = 200, *, on_findings: Callable[[Findings], object] | None = None, **options: Any
    ) -> None:
        self._options = {"every": every, "on_findings": on_findings, **options}
        self.monitor: Monitor | None = None

    def _start(self, model: nn.Module, **from_trainer: Any) -> None:
        """Begin to monitor ``model``; what the user gave takes precedence over what the trainer has."""
        self.monitor = Monitor(model, **{**from_trainer, **self._options})


class Recalibrates:
    """Base of the callbacks that evaluate and save with the statistics of the data.

    Args:
        batches: As for ``bnkit.recalibrate``; None for the first ``limit`` batches of the trainer's training loader.
        limit: The number of batches; None for all.
        keep: Keep the statistics of the data.
        forward, options: As for ``bnkit.recalibrate``.

    Attributes:
        recalibration: The last recalibration; None before the first.
    """

    def __init__(
        self,
        batches: Any = None,
        *,
        limit: int | None = DEFAULT_LIMIT,
        keep: bool = False,
        forward: Forward | None = None,
        **options: Any,
    ) -> None:
        self._batches, self._limit, self._keep = batches, limit, keep
        self._forward, self._options = forward, options
        self._before: dict[str, Tensor] | None = None
        self.recalibration: Recalibration | None = None

    def _batches_of(self, loader: Any) -> Any:
        """The given batches, or those of the trainer's training ``loader``.

        Raises:
            SettingsError: No batches were given, and ``loader`` is not a ``DataLoader``.
        """
        return TrainingBatches(loader, self._limit) if self._batches is None else self._batches

    def _remember(self, model: nn.Module) -> None:
        """Remember the running statistics for ``_restore``, unless those of the data are to be kept."""
        self._before = None if self._keep else running_statistics(model)

    def _recalibrate_on(self, model: nn.Module, batches: Any, forward: Forward | None) -> None:
        """Give ``model`` the statistics of the data."""
        self.recalibration = recalibrate(model, batches, forward, **self._options)

    def _restore(self, model: nn.Module) -> None:
        """Restore the statistics that are remembered, if any."""
        if self._before is not None:
            restore_statistics(model, self._before)
            self._before = None


class FreezesFromAnEpoch:
    """Base of the callbacks that freeze the batch norms from an epoch on.

    Args:
        start_epoch: The first epoch, from 0, in which they are frozen.
        include, exclude, affine: As for ``bnkit.freeze``.

    Raises:
        SettingsError: ``start_epoch`` is negative.
    """

    def __init__(
        self,
        start_epoch: int = 0,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        affine: bool = False,
    ) -> None:
        if start_epoch < 0:
            raise SettingsError(f"start_epoch={start_epoch}; expected 0 or more")
        self._start_epoch = start_epoch
        self._options: dict[str, Any] = {"include": include, "exclude": exclude, "affine": affine}

    def _freeze_if_due(self, model: nn.Module, epoch: int) -> None:
        """Freeze the batch norms of ``model`` if ``epoch`` is the first one or later."""
        if epoch >= self._start_epoch:
            freeze(model, **self._options)
