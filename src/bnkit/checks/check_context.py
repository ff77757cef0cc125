"""The input of all rules, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from bnkit.checks.example_trace import ExampleTrace
from bnkit.checks.measure_on_data import DataMeasurements
from bnkit.checks.rule_needs import Need
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, BatchNormSite, batch_norm_sites

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from bnkit.model.preserve_state import Snapshot


@dataclass(frozen=True)
class TrainingSetup:
    """How a model is trained, as given by the caller.

    Attributes:
        optimizer: The optimizer of its parameters.
        loader: The source of the training batches, such as a ``DataLoader``.
        ema: The model with averages of this one's parameters.
        accumulation: The number of batches whose gradients are summed for one optimizer step.
        processes: The number of processes that train together; None for those of ``torch.distributed``.
    """

    optimizer: Optimizer | None = None
    loader: Any = None
    ema: nn.Module | None = None
    accumulation: int = 1
    processes: int | None = None


@dataclass
class CheckContext:
    """A model and the other arguments of ``check``. Properties that rules use are computed on first access.

    Attributes:
        model: The model, in its original modes. Rules only read it.
        snapshot: Its state before the check, restored after every run.
        example: The input to run it on; None if there is none.
        batches: Batches of data; None if there are none.
        test_batches: Separate batches to compare outputs and accuracy on; None for some of ``batches``.
        training: How it is trained.
    """

    model: nn.Module
    snapshot: Snapshot
    example: Example | None = None
    batches: Batches | None = None
    test_batches: Batches | None = None
    training: TrainingSetup = TrainingSetup()

    @property
    def has(self) -> frozenset[Need]:
        """The inputs of rules that the caller gave."""
        available = {
            Need.STRUCTURE: self.example,
            Need.DATA: self.batches,
            Need.OPTIMIZER: self.training.optimizer,
            Need.LOADER: self.training.loader,
            Need.EMA: self.training.ema,
        }
        return frozenset(need for need, value in available.items() if value is not None)

    @cached_property
    def sites(self) -> list[BatchNormSite]:
        """The modules that are, or may be, batch norms, in the order of the model."""
        return batch_norm_sites(self.model)

    @cached_property
    def norms(self) -> dict[BatchNormSite, BatchNormLike]:
        """The batch norms and their properties."""
        return {site: site.recognised_as for site in self.sites if isinstance(site.recognised_as, BatchNormLike)}

    @cached_property
    def trained(self) -> frozenset[nn.Module]:
        """The modules that are in training mode after ``model.train()``."""
        try:
            self.model.train()
            return frozenset(module for module in self.model.modules() if module.training)
        finally:
            self.snapshot.restore()

    @cached_property
    def example_trace(self) -> ExampleTrace:
        """One run on the example."""
        assert self.example is not None
        try:
            return ExampleTrace(self.model, self.example, self.sites)
        finally:
            self.snapshot.restore()

    @cached_property
    def measurements(self) -> DataMeasurements:
        """One pass over the batches."""
        assert self.batches is not None
        try:
            return DataMeasurements(self.model, self.sites, self.batches, self.test_batches)
        finally:
            self.snapshot.restore()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the data that were given and could not be used."""
        if "measurements" not in vars(self) or not self.measurements.effect.misfit:
            return ()
        return (self.measurements.effect.misfit,)


class BatchExample(Example):
    """A batch of data as an example input of the model."""

    def __init__(self, batches: Batches, batch: Any) -> None:
        super().__init__((batch,))
        self._batches, self._batch = batches, batch

    def fresh(self) -> BatchExample:
        """Itself: each run gets new tensors anyway."""
        return self

    def run(self, model: nn.Module) -> Any:
        """Run ``model`` on the batch and return its output."""
        return self._batches.run(model, self._batch, 1)
