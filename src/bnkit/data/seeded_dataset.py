"""Load batches of a user's ``Dataset`` with reproducible random numbers, and check its examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bnkit.data.labels import canonical_targets
from bnkit.data.tensor_conversion import prefix_errors, to_strided
from bnkit.errors import DataError
from bnkit.seeding import derived_seed, seeded_on_cpu


@dataclass(frozen=True)
class SeededDataset(Dataset[Any]):
    """A dataset whose random transforms are reproducible: the same order of examples gives the same batches.

    Transforms that use the global generators of torch, NumPy or ``random`` draw the same numbers in every process and for
    every network.

    Attributes:
        dataset: A map-style dataset of (input, target).
        name: Its name in messages.
        key: Seeds the generators.
    """

    dataset: Dataset[Any]
    name: str
    key: object = ""

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """The examples of ``rows``; the DataLoader calls this here or in its worker processes."""
        with seeded_on_cpu("examples", self.key, *rows[:1]):
            together = getattr(self.dataset, "__getitems__", None)
            if callable(together):
                return list(together(rows))
            return [self.dataset[row] for row in rows]

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The inputs and targets of ``rows``.

        Raises:
            DataError: If an example is not a pair of an input and a target.
        """
        return self.collate(self.__getitems__(rows))

    def batches(self, rows: Sequence[int], batch_size: int, **options: Any) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches ``(inputs, targets)`` of ``rows``, in that order; ``options`` go to the ``DataLoader``."""
        generator = torch.Generator().manual_seed(derived_seed("loaders", self.key))
        return DataLoader(
            self, batch_size=batch_size, sampler=rows, collate_fn=self.collate, generator=generator, **options
        )

    def collate(self, examples: list[Any]) -> tuple[Tensor, Tensor]:
        """The inputs and the targets of ``examples``, stacked.

        Raises:
            DataError: If an example is not a pair of an input and a target.
        """
        for example in examples:
            self._check(example)
        inputs, targets = default_collate([tuple(example) for example in examples])
        if not isinstance(targets, Tensor):
            raise DataError(f"{self.name} returns targets of several parts; expected one number or tensor each")
        if inputs.dim() < 2:
            raise DataError(f"{self.name} returns single numbers as inputs; expected tensors of at least one dimension")
        with prefix_errors(self.name):
            return to_strided(inputs, "inputs"), canonical_targets(to_strided(targets, "targets"), inputs.dim())

    def _check(self, example: object) -> None:
        if not isinstance(example, (tuple, list)) or len(example) != 2:
            raise DataError(
                f"{self.name} returns {_described(example)}; expected (input, target): wrap it in a Dataset that returns "
                "these two"
            )
        value, target = example
        if not isinstance(value, (Tensor, np.ndarray)) or isinstance(value, np.ma.MaskedArray):
            hint = "a transform, torchvision.transforms.ToTensor(), makes it" if "PIL" in type(value).__module__ else ""
            raise DataError(
                f"{self.name} returns {_described(value)} as an input; expected a tensor{': ' if hint else ''}{hint}"
            )
        if isinstance(target, (str, bytes)) or target is None:
            raise DataError(
                f"{self.name} returns {target!r} as a target; expected a class number, from 0 on, or floating values"
            )


def _described(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    module = type(value).__module__.partition(".")[0]
    return f"a {module + ' ' if module == 'PIL' else ''}{type(value).__name__}"
