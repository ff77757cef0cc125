"""What all rules look at, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from bnkit.checks.data_measurements import DataMeasurements
from bnkit.checks.example_trace import ExampleTrace
from bnkit.checks.rule_needs import Need
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.recognise import BatchNormLike, BatchNormSite, batch_norm_sites

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from bnkit.model.state import Snapshot


@dataclass(frozen=True)
class TrainingSetup:
    """How a model is trained, as far as the caller said.

    Attributes:
        optimizer: The optimizer of its parameters.
        loader: What the batches of training come from, as a ``DataLoader``.
        ema: The model whose parameters are averages of this one's.
        accumulation: How many batches' gradients are added up for one step of the optimizer.
        processes: How many processes train together; None for those of ``torch.distributed``.
    """

    optimizer: Optimizer | None = None
    loader: Any = None
    ema: nn.Module | None = None
    accumulation: int = 1
    processes: int | None = None


@dataclass
class CheckContext:
    """A model and what ``check`` was given with it. What rules look at is computed when the first of them asks.

    Attributes:
        model: In the modes in which it was given. Rules read it, and change nothing.
        snapshot: Its state before the check, restored after every run.
        example: What to run it on; None if there is nothing.
        batches: Batches of data; None if there are none.
        test_batches: Batches to judge outputs and accuracy on, where they are others.
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
        """What the caller gave that rules may need."""
        given = {
            Need.STRUCTURE: self.example,
            Need.DATA: self.batches,
            Need.OPTIMIZER: self.training.optimizer,
            Need.LOADER: self.training.loader,
            Need.EMA: self.training.ema,
        }
        return frozenset(need for need, value in given.items() if value is not None)

    @cached_property
    def sites(self) -> list[BatchNormSite]:
        """The modules that are batch norms or look like one, in the order of the model."""
        return batch_norm_sites(self.model)

    @cached_property
    def norms(self) -> dict[BatchNormSite, BatchNormLike]:
        """Those that are batch norms, and what is known of each."""
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


class BatchExample(Example):
    """A batch of data as an example of what the model is called with."""

    def __init__(self, batches: Batches, batch: Any) -> None:
        super().__init__((batch,))
        self._batches, self._batch = batches, batch

    def fresh(self) -> BatchExample:
        """Itself: each run gets tensors of its own anyway."""
        return self

    def run(self, model: nn.Module) -> Any:
        """What ``model`` returns for the batch."""
        return self._batches.run(model, self._batch, 1)
