"""Logs a comparison to TensorBoard, a run for each run. Imports torch only to draw a network's graph."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record
from bnkit.integrations.extras import require_extra
from bnkit.integrations.run_logger import figures
from bnkit.report.objective_metric import Objective

if TYPE_CHECKING:
    from torch import nn

    from bnkit.data import Splits

NAME = "tensorboard"
# The number of images of the first batch in the grid.
_IMAGES = 64
_COLUMNS = 8


class TensorBoard(Callback):
    """Writes event files for TensorBoard while a comparison trains.

    Every run has its own folder: scalars, histograms of the parameters (gamma and beta among them) after every
    epoch, the network's graph, the first images, and its settings as hyper-parameters, the same keys in every run.

    Args:
        folder: The results folder; its ``tensorboard`` is what ``tensorboard --logdir`` takes.

    Raises:
        SettingsError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_extra("TensorBoard", "tensorboardX", "tensorboard")
        import tensorboardX

        self._library: Any = tensorboardX
        self._path = folder / NAME
        self._writer: Any = None
        self._keys: tuple[str, ...] = ()
        self._of_the_end: tuple[str, ...] = ()

    def writing_to(self, folder: Path) -> Callback:
        twin = copy.copy(self)
        twin._path = folder / NAME
        return twin

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        self._keys = plan.experiment.grid.explicit_keys
        field = Objective.of(plan.task).field
        self._of_the_end = (f"test_{field}", field, "loss")

    def model_ready(self, run: Run, model: nn.Module, parts: Splits, epochs_done: int) -> None:
        folder = self._path / f"{run.number:04}-{run.network.key}-seed{run.seed}-{run.run_id}"
        self._writer = self._library.SummaryWriter(str(folder), purge_step=epochs_done + 1, flush_secs=10)
        inputs, _ = parts.train.head(min(_IMAGES, run.settings.batch_size))
        if inputs.dim() == 4 and inputs.shape[1] in (1, 3):
            images = inputs.cpu().numpy()
            self._writer.add_image("first_batch", _grid(images), 0)
        if epochs_done == 0:
            self._add_graph(model, inputs[:2])

    def epoch_trained(self, run: Run, epoch: Epoch, model: nn.Module) -> None:
        for name, value in figures(epoch).items():
            self._writer.add_scalar(name, value, epoch.epoch)
        for entry in epoch.layers or ():
            for name, value in _scalars(entry["layers"]):
                self._writer.add_scalar(f"layers/{name}", value, entry["step"])
        for name, parameter in model.named_parameters():
            values = parameter.detach().float().cpu().numpy()
            if math.isfinite(float(values.sum())):  # TensorBoard cannot show inf and NaN
                self._writer.add_histogram(name, values, epoch.epoch)

    def run_ended(self, run: Run, record: Record) -> None:
        if self._writer is None:  # the run failed before its network was made
            return
        settings = {"network": run.network.key, "seed": run.seed} | {
            key: _hyperparameter(getattr(run.settings, key)) for key in self._keys
        }
        last = record.last
        self._add_hyperparameters(settings, {name: getattr(last, name, None) for name in self._of_the_end})
        self._writer.close()
        self._writer = None

    def _add_hyperparameters(self, settings: Mapping[str, Any], metrics: Mapping[str, float | None]) -> None:
        """Write them into the run's own file; the library's method would create a second run."""
        known = {f"end/{name}": math.nan if value is None else value for name, value in metrics.items()}
        for summary in self._library.summary.hparams(dict(settings), known):
            self._writer.file_writer.add_summary(summary)
        for name, value in known.items():
            self._writer.add_scalar(name, value)

    def _add_graph(self, model: nn.Module, inputs: Any) -> None:
        """The graph of the network in evaluation mode; left out if it cannot be traced."""
        was_training = model.training
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's tracing, on which TensorBoard's graphs rest, is deprecated
                self._writer.add_graph(model.eval(), inputs)
        except Exception:
            self._writer.add_text("graph", "The network could not be traced.")
        finally:
            model.train(was_training)


def _grid(images: Any) -> Any:
    """(N, C, H, W) -> one image (C, rows · H, 8 · W), scaled to 0 to 1; unused places stay black."""
    import numpy as np

    count, channels, height, width = images.shape
    rows = -(-count // _COLUMNS)
    low, high = float(images.min()), float(images.max())
    grid = np.zeros((rows * _COLUMNS, channels, height, width), dtype=np.float32)
    grid[:count] = (images - low) / ((high - low) or 1.0)
    tiled = grid.reshape(rows, _COLUMNS, channels, height, width).transpose(2, 0, 3, 1, 4)
    return tiled.reshape(channels, rows * height, _COLUMNS * width)


def _scalars(layers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The recorded figures of all layers at one step, by ``layer/figure``; for a distribution, its mean and deviation."""
    for layer, measured in layers.items():
        for name, value in measured.items():
            known = (
                {name: value}
                if not isinstance(value, dict)
                else {f"{name}_{moment}": value[moment] for moment in ("mean", "deviation")}
            )
            yield from ((f"{layer}/{key}", number) for key, number in known.items() if number is not None)


def _hyperparameter(value: object) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
