"""Callbacks for Lightning's ``Trainer``: the checks, recalibration, and freezing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from bnkit.checks.findings import Findings
from bnkit.checks.training_monitor import Monitor
from bnkit.errors import SettingsError
from bnkit.integrations.training_batches import DEFAULT_LIMIT, TrainingBatches, may_recalibrate
from bnkit.model.edit.freeze import freeze
from bnkit.model.inspect.batches import Batches, Forward
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.statistics.recalibrate import recalibrate
from bnkit.model.statistics.running_stats_drift import Recalibration
from bnkit.model.statistics.temporary_recalibration import restore_statistics, running_statistics

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError(
        "bnkit.integrations.lightning needs lightning, which is not installed; pip install 'bnkit[lightning]'"
    ) from error

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class MonitorCallback(Callback):
    """Checks the module every few hundred steps of its training, and logs each finding once (``bnkit.Monitor``).

    A step is a step of the optimizer; with accumulation, the last batch is checked. Optimizer, loader, accumulation and
    processes are those of the trainer. Training is unchanged.

    Args:
        every, on_findings, options: As for ``bnkit.Monitor``.

    Attributes:
        monitor: The monitor of the present or the last fit; None before the first.
    """

    def __init__(
        self, every: int = 200, *, on_findings: Callable[[Findings], object] | None = None, **options: Any
    ) -> None:
        self._options = {"every": every, "on_findings": on_findings, **options}
        self._step = 0
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from_trainer = {
            "optimizer": trainer.optimizers[0] if trainer.optimizers else None,
            "loader": trainer.train_dataloader,
            "accumulation": trainer.accumulate_grad_batches,
            "processes": trainer.world_size,
        }
        self._step = trainer.global_step
        self.monitor = Monitor(pl_module, **{**from_trainer, **self._options})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:  # otherwise gradients are being accumulated
            self._step = trainer.global_step
            assert self.monitor is not None
            self.monitor.step(batch)


class RecalibrateCallback(Callback):
    """Validates and saves with the statistics of the data; training continues with the moving averages that it had before.

    Checkpoints hold the statistics of the data too, and, as this callback's state, the moving averages, so that a training
    that resumes from one is the training that was not interrupted. Lightning calls no callback for checkpoints with
    ``save_weights_only=True``: those hold the moving averages. The sanity check before training is unchanged.

    Args:
        batches: As for ``bnkit.recalibrate``; None for the first ``limit`` batches of the trainer's training loader, which
            are read independently of the training, which stays the same.
        limit: The number of batches; None for all.
        keep: Keep the statistics of the data: the moving averages continue from there.
        forward, options: As for ``bnkit.recalibrate``.

    Attributes:
        recalibration: The last recalibration, with the drift of every layer; None before the first.
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
        self._before: dict[str, torch.Tensor] | None = None
        self._module: LightningModule | None = None
        self._is_fit = False
        self.recalibration: Recalibration | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._module, self._is_fit = pl_module, stage == "fit"

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._module = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and may_recalibrate(pl_module):
            self._before = None if self._keep else running_statistics(pl_module)
            self._recalibrate(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not may_recalibrate(pl_module):
            return
        before = self._before if self._before is not None else running_statistics(pl_module)
        try:
            self._recalibrate(trainer, pl_module)
            weights: dict[str, Any] = checkpoint["state_dict"]
            weights.update((name, value) for name, value in running_statistics(pl_module).items() if name in weights)
        finally:
            if not self._keep:
                restore_statistics(pl_module, before)

    def state_dict(self) -> dict[str, Any]:
        if self._keep or self._module is None:
            return {}
        return {"moving_averages": self._before or running_statistics(self._module)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        averages = state_dict.get("moving_averages")
        if averages and self._is_fit and self._module is not None:
            restore_statistics(self._module, averages)

    def _restore(self, module: LightningModule) -> None:
        if self._before is not None:
            restore_statistics(module, self._before)
            self._before = None

    def _recalibrate(self, trainer: Trainer, module: LightningModule) -> None:
        batches = self._batches
        if batches is None:
            batches = TrainingBatches(trainer.train_dataloader, self._limit)
        given = Batches(batches, self._forward)

        def forward(model: Any, batch: Any) -> Any:
            moved = module.on_before_batch_transfer(batch, 0)
            moved = trainer.strategy.batch_to_device(moved, dataloader_idx=0)
            with trainer.precision_plugin.forward_context():
                return given.run(model, moved, 1)

        self.recalibration = recalibrate(module, batches, forward, **self._options)


class FreezeCallback(Callback):
    """Freezes the batch norms of the module from an epoch on; they stay frozen although Lightning calls ``.train()``.

    They stay frozen after the fit: ``bnkit.unfreeze`` undoes it.

    Args:
        start_epoch: The first epoch, from 0, in which they are frozen.
        include, exclude, affine: As for ``bnkit.freeze``.
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

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch >= self._start_epoch:
            freeze(pl_module, **self._options)
