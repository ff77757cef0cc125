"""Callbacks for the ``Trainer`` of transformers: the checks, recalibration, and freezing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from bnkit.integrations.shared_callback_bases import FreezesFromAnEpoch, Monitors, Recalibrates
from bnkit.integrations.training_batches import may_recalibrate
from bnkit.model.statistics.temporary_recalibration import restore_statistics, running_statistics

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "bnkit.integrations.transformers needs transformers, which is not installed; pip install 'bnkit[transformers]'"
    ) from error

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

# The file in a checkpoint, next to the weights.
_MOVING_AVERAGES = "bnkit_moving_averages.safetensors"


class MonitorCallback(Monitors, TrainerCallback):
    """Checks the model every few hundred steps of its training, and logs each finding once (``bnkit.Monitor``).

    A step is a step of the optimizer; the check uses the model's last inputs. Optimizer, loader, accumulation and processes are
    those of the trainer. Training is unchanged.

    Args:
        every, on_findings, options: As for ``bnkit.Monitor``.

    Attributes:
        monitor: The monitor of the present or the last training; None before the first.
    """

    _batch: Any = None
    _hook: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self._start(
            model,
            optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            loader=kwargs["train_dataloader"],
            accumulation=args.gradient_accumulation_steps,
            processes=args.world_size,
        )
        self._remove_hook()
        # The trainer does not pass batches to callbacks.
        self._hook = model.register_forward_pre_hook(self._remember, with_kwargs=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.monitor is not None:
            batch, self._batch = self._batch, None
            self.monitor.step(batch)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._remove_hook()

    def _remember(self, model: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if model.training:
            self._batch = dict(options) or inputs

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class RecalibrateCallback(Recalibrates, TrainerCallback):
    """Evaluates and saves with the statistics of the data; training continues with the moving averages that it had before.

    Each checkpoint has the moving averages in a separate file, so that a training that resumes from it in the same ``output_dir``
    equals an uninterrupted one. The trainer calls no callback before an evaluation outside of training; use
    ``with bnkit.recalibrated(model, batches): trainer.evaluate()`` there.

    Args:
        batches: As for ``bnkit.recalibrate``; None for the first ``limit`` batches of the trainer's training loader, which
            are read independently of the training, which stays the same.
        limit: The number of batches; None for all.
        keep: Keep the statistics of the data: the moving averages continue from there.
        forward, options: As for ``bnkit.recalibrate``.

    Attributes:
        recalibration: The last recalibration, with the drift of every layer; None before the first.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check(kwargs["model"])
        file = _checkpoint(args, state) / _MOVING_AVERAGES
        if state.global_step > 0 and file.is_file():
            saved, model = load_file(file), kwargs["model"]
            now = running_statistics(model)
            # If the resumed model has other statistics, the file belongs to another checkpoint with the same number of steps.
            if all(torch.equal(value.cpu(), saved.get(f"saved.{name}", value + 1)) for name, value in now.items()):
                restore_statistics(model, {name: saved[f"before.{name}"] for name in now})

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restore(kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._recalibrate_if_due(control, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._recalibrate_if_due(control, **kwargs)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # The trainer decides after this event whether this model is the best so far, and therefore saved.
        if not control.should_save and args.save_strategy != "best":
            self._restore(kwargs["model"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        model, folder = kwargs["model"], _checkpoint(args, state)
        if self._before is not None and state.is_world_process_zero and folder.is_dir():
            tensors = {f"saved.{name}": value for name, value in running_statistics(model).items()}
            tensors |= {f"before.{name}": value for name, value in self._before.items()}
            save_file(tensors, folder / _MOVING_AVERAGES)
        self._restore(model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._before = None  # the best model's statistics were loaded with it
        self._restore(kwargs["model"])

    def _recalibrate_if_due(self, control: TrainerControl, **kwargs: Any) -> None:
        model = kwargs["model"]
        self._restore(model)
        if not (control.should_evaluate or control.should_save) or not may_recalibrate(model):
            return
        self._remember(model)
        self._recalibrate_on(model, self._batches_of(kwargs["train_dataloader"]), self._forward)


class FreezeCallback(FreezesFromAnEpoch, TrainerCallback):
    """Freezes the batch norms of the model from an epoch on; they stay frozen although the trainer calls ``.train()``.

    They stay frozen after the training: ``bnkit.unfreeze`` undoes it.

    Args:
        start_epoch: The first epoch, from 0, in which they are frozen.
        include, exclude, affine: As for ``bnkit.freeze``.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check(kwargs["model"])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._freeze_if_due(kwargs["model"], int((state.epoch or 0) + 1e-6))


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the checkpoint at the step of ``state``."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
