"""Callbacks for Lightning's ``Trainer``: the checks, recalibration, and freezing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bnkit.integrations.shared_callback_bases import FreezesFromAnEpoch, Monitors, Recalibrates
from bnkit.integrations.training_batches import may_recalibrate
from bnkit.model.inspect.batches import Batches
from bnkit.model.statistics.temporary_recalibration import restore_statistics, running_statistics

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError(
        "bnkit.integrations.lightning needs lightning, which is not installed; pip install 'bnkit[lightning]'"
    ) from error

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class MonitorCallback(Monitors, Callback):
    """Checks the module every few hundred steps of its training, and logs each finding once (``bnkit.Monitor``).

    A step is a step of the optimizer; with accumulation, the last batch is checked. Optimizer, loader, accumulation and
    processes are those of the trainer. Training is unchanged.

    Args:
        every, on_findings, options: As for ``bnkit.Monitor``.

    Attributes:
        monitor: The monitor of the present or the last fit; None before the first.
    """

    _step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._start(
            pl_module,
            optimizer=trainer.optimizers[0] if trainer.optimizers else None,
            loader=trainer.train_dataloader,
            accumulation=trainer.accumulate_grad_batches,
            processes=trainer.world_size,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:  # otherwise gradients are being accumulated
            self._step = trainer.global_step
            assert self.monitor is not None
            self.monitor.step(batch)


class RecalibrateCallback(Recalibrates, Callback):
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

    _module: LightningModule | None = None
    _is_fit = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._module, self._is_fit = pl_module, stage == "fit"

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._module = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and may_recalibrate(pl_module):
            self._remember(pl_module)
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

    def _recalibrate(self, trainer: Trainer, module: LightningModule) -> None:
        batches = self._batches_of(trainer.train_dataloader)
        passes = Batches(batches, self._forward)

        def forward(model: Any, batch: Any) -> Any:
            moved = module.on_before_batch_transfer(batch, 0)
            moved = trainer.strategy.batch_to_device(moved, dataloader_idx=0)
            with trainer.precision_plugin.forward_context():
                return passes.run(model, moved, 1)

        self._recalibrate_on(module, batches, forward)


class FreezeCallback(FreezesFromAnEpoch, Callback):
    """Freezes the batch norms of the module from an epoch on; they stay frozen although Lightning calls ``.train()``.

    They stay frozen after the fit: ``bnkit.unfreeze`` undoes it.

    Args:
        start_epoch: The first epoch, from 0, in which they are frozen.
        include, exclude, affine: As for ``bnkit.freeze``.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze_if_due(pl_module, trainer.current_epoch)
