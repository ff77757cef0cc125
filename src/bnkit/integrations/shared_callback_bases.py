"""What the callbacks for different trainers share: arguments, and what they do to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from bnkit.argument_checks import check_bool, check_callable, check_int
from bnkit.checks.findings_output import Findings
from bnkit.checks.training_monitor import Monitor
from bnkit.errors import SettingsError
from bnkit.integrations.training_batches import DEFAULT_LIMIT, TrainingBatches
from bnkit.message_parts import unknown_name
from bnkit.model.edit.freeze import freeze
from bnkit.model.inspect.batches import Batches, Forward
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.inspect.recognise_batch_norm import matching_names, required_batch_norm_sites
from bnkit.model.statistics.recalibrate import recalibrate
from bnkit.model.statistics.running_stats_drift import Recalibration
from bnkit.model.statistics.temporary_recalibration import restore_statistics, running_statistics


class Monitors:
    """Base of the callbacks that check the model while it trains.

    Args:
        every, on_findings, options: As for ``bnkit.Monitor``.

    Attributes:
        monitor: The monitor of the present or the last training; None before the first.

    Raises:
        SettingsError: An argument is invalid.
    """

    def __init__(
        self, every: int = 200, *, on_findings: Callable[[Findings], object] | None = None, **options: Any
    ) -> None:
        check_int("every", every)
        check_callable("on_findings", on_findings)
        _check_options(options, Monitor)
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

    Raises:
        SettingsError: An argument is invalid.
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
        if limit is not None:
            check_int("limit", limit)
        check_bool("keep", keep)
        check_callable("forward", forward)
        _check_options(options, recalibrate)
        if batches is not None and not Batches(batches, forward, options.get("batch_size")).is_repeatable:
            raise SettingsError(
                f"batches is a {type(batches).__name__}, which is exhausted after one recalibration; expected a DataLoader or a list"
            )
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

    def _check(self, model: nn.Module) -> None:
        """Refuse, before it trains, a ``model`` that cannot be recalibrated later."""
        _check_sites(model, self._options)

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
        SettingsError: An argument is invalid.
    """

    def __init__(
        self,
        start_epoch: int = 0,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        affine: bool = False,
    ) -> None:
        check_int("start_epoch", start_epoch, 0)
        check_bool("affine", affine)
        self._start_epoch = start_epoch
        self._options: dict[str, Any] = {"include": include, "exclude": exclude, "affine": affine}

    def _check(self, model: nn.Module) -> None:
        """Refuse, before it trains, a ``model`` that cannot be frozen later."""
        _check_sites(model, self._options)

    def _freeze_if_due(self, model: nn.Module, epoch: int) -> None:
        """Freeze the batch norms of ``model`` if ``epoch`` is the first one or later."""
        if epoch >= self._start_epoch:
            freeze(model, **self._options)


def _check_options(options: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Make sure that ``function`` has the ``options``: it is called after hours of training.

    Raises:
        SettingsError: It has no option of that name.
    """
    parameters = signature(function).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise SettingsError(unknown_name("unknown option", name, known))


def _check_sites(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Make sure that ``model`` has batch norms, and that the patterns in ``options`` match some.

    Raises:
        ModelError: There is no batch norm.
        SettingsError: A pattern matches none.
    """
    sites = required_batch_norm_sites(model)
    matching_names([site.names for site in sites], options.get("include"), options.get("exclude"))
