"""What autograd keeps of a storage: the tensor, or what computes it again."""

from __future__ import annotations

from collections.abc import Hashable
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from bnkit.errors import ModelError
from bnkit.memory import backward_end

# Elements that are compared: a change of one in ten is missed once in a thousand times.
_SAMPLED = 64
# Integers as wide as an element: they compare as bits, so that NaN equals itself.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NO_DATA: dict[tuple[torch.dtype, torch.device], Tensor] = {}
# A backward pass over several devices has a thread for each.
_one_at_a_time = RLock()


class Recipe(Protocol):
    """A tensor that can be computed again.

    Attributes:
        has_batch_norm: Whether batch normalization is in it: then it is worth its time.
        depth: How many outputs that are computed again themselves it goes back over, one before the other.
    """

    @property
    def has_batch_norm(self) -> bool: ...

    @property
    def depth(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def compute(self) -> tuple[Tensor, bool]:
        """The tensor, and whether it is the only reference, so that it may be overwritten."""
        ...

    def signature(self) -> Hashable:
        """What is the same in recipes that compute alike: all but the values."""
        ...


class SavedStorage:
    """The content of a storage at one of its versions: kept, or computed again for as long as it is needed.

    A storage is identified by its address together with a weak reference: while that is held, no other object can have that
    address. The address of the data is reused as soon as they are freed.

    Attributes:
        key: The address of the storage (not of the data).
        version: How often it had been changed in place.
        dtype, nbytes: Of the whole storage.
        tensor: The content if it is kept, outside the graph; None if not.
        recipe: What computes it if it is not kept.
        may_drop: Whether it may be let go.
    """

    __slots__ = (
        "__weakref__", "_counter", "_generation", "_pending", "_recomputed", "_sample", "_storage", "_users",
        "dtype", "key", "may_drop", "nbytes", "recipe", "tensor", "version",
    )  # fmt: skip

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.key: int = storage._cdata
        self._storage = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self.version: int = tensor._version
        self.dtype = tensor.dtype
        self.nbytes: int = storage.nbytes()
        # Outside the graph, or a node would hold itself. A leaf is in no graph.
        self.tensor: Tensor | None = tensor if tensor.is_leaf else tensor.detach()
        self.recipe: Recipe | None = None
        self.may_drop = tensor.dtype.is_floating_point and self.nbytes > 0
        self._counter: Tensor | None = None
        self._sample: Tensor | None = None
        self._recomputed: Tensor | None = None
        self._users = self._pending = self._generation = 0

    def matches(self, tensor: Tensor, key: int) -> bool:
        """Whether this is what ``tensor``, whose storage is at the address ``key``, holds now."""
        return (
            self.key == key
            and self.version == tensor._version
            and self.dtype == tensor.dtype
            and not self._storage.expired()  # type: ignore[no-untyped-call]
        )

    def drop(self, recipe: Recipe) -> None:
        """Let the tensor go: from now on ``recipe`` computes it."""
        assert self.tensor is not None
        self._sample = _sample(self.tensor, self.nbytes).clone()
        self._counter = _without_data(self.tensor)
        self.recipe, self.tensor = recipe, None

    def keep(self, tensor: Tensor) -> None:
        """Keep ``tensor``, of this storage, after all."""
        self.tensor, self.recipe, self._sample, self._counter = tensor.detach(), None, None, None
        self.may_drop = False

    def was_modified_silently(self, tensor: Tensor) -> bool:
        """Whether ``tensor``, of this storage, holds something else than was let go, though its version is the same.

        Asked of the CPU only: elsewhere, to look would be to wait for the device.
        """
        if self._sample is None or tensor.device.type != "cpu":
            return False
        return not _same(_sample(tensor, self.nbytes), self._sample)

    def is_current(self) -> bool:
        """Whether nothing was changed in place since."""
        counted: Any = self._counter if self.tensor is None else self.tensor
        return bool(counted._version == self.version)

    def begin_use(self) -> int:
        """There is one more user, who gives what this returns to ``value``."""
        self._users += 1
        return self._generation

    def end_use(self, generation: int) -> None:
        """That user will not ask again."""
        with _one_at_a_time:
            self._users -= 1
            if generation != self._generation:
                self._served()

    def value(self, generation: int) -> tuple[Tensor, int]:
        """The content, for a user who was served in ``generation`` last; and the round of this time.

        What is computed again stays, in a backward pass, until all users have been served, or to the end of the pass.

        Raises:
            RuntimeError: It was changed in place, as PyTorch raises it.
            ModelError: What is computed is something else than what was let go.
        """
        if not self.is_current():
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of "
                f"{self.nbytes} bytes, {self.dtype}; expected version {self.version} instead. Hint: "
                "torch.autograd.set_detect_anomaly(True) finds the operation that needs it"
            )
        if self.tensor is not None:
            return self.tensor, generation
        with _one_at_a_time:
            tensor = self._recomputed
            if tensor is None:
                tensor = self._recompute()
                if not backward_end.is_running():
                    return tensor, generation
                self._recomputed, self._pending = tensor, self._users
                self._generation += 1
                backward_end.release_at_the_end(self)
            if generation != self._generation:
                self._served()
            return tensor, self._generation

    def release(self) -> None:
        """Free what was computed again."""
        self._recomputed = None

    def _served(self) -> None:
        self._pending -= 1
        if self._pending <= 0:
            self._recomputed = None

    def _recompute(self) -> Tensor:
        assert self.recipe is not None
        tensor = run_recipe(self.recipe)
        assert self._sample is not None
        if _same_layout(tensor, self):
            sample = _sample(tensor, self.nbytes)
            if backward_end.would_synchronize(tensor):
                backward_end.check_at_the_end((_bits(sample) != _bits(self._sample)).any())
                return tensor
            if _same(sample, self._sample):
                return tensor
        raise ModelError(backward_end.CHANGED)


def run_recipe(recipe: Recipe) -> Tensor:
    """What ``recipe`` computes, outside the graph and in the dtypes that it has."""
    device = recipe.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return run_recipe(recipe)
    if torch.is_grad_enabled():  # in most backward passes it is not, and to switch it takes as long as a small loop
        with torch.no_grad():
            return recipe.compute()[0]
    return recipe.compute()[0]


def equals(tensor: Tensor, storage: SavedStorage) -> bool:
    """Whether ``tensor`` is what ``storage`` keeps, bit by bit and place by place; NaN is NaN."""
    assert storage.tensor is not None
    return _same_layout(tensor, storage) and _same_bits(_flat(tensor), _flat(storage.tensor))


def _same_layout(tensor: Tensor, storage: SavedStorage) -> bool:
    return (
        tensor.dtype == storage.dtype
        and tensor.storage_offset() == 0
        and tensor.untyped_storage().nbytes() == storage.nbytes
    )


def _flat(tensor: Tensor) -> Tensor:
    """The whole storage of ``tensor``, in one dimension."""
    return tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)


def _sample(tensor: Tensor, nbytes: int) -> Tensor:
    """Some elements of the storage of ``tensor``, which has ``nbytes``; a view."""
    count = nbytes // tensor.itemsize
    if count <= _SAMPLED:
        return tensor.as_strided((count,), (1,), 0)
    step = (count - 1) // (_SAMPLED - 1)
    # Not the same place of each row: an odd step seldom divides a row, nor the other way around.
    step = max(step - 1 + step % 2, 1)
    return tensor.as_strided((_SAMPLED,), (step,), count - 1 - step * (_SAMPLED - 1))


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same values; NaN is NaN."""
    return torch.equal(a, b) or _same_bits(a, b)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same; which NaN it is may depend on the order of a sum."""
    a = a.contiguous()
    if torch.equal(_bits(a), _bits(b)):
        return True
    if not a.dtype.is_floating_point:
        return False
    return not bool(((_bits(a) != _bits(b)) & ~(a.isnan() & b.isnan())).any())


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_BITS[tensor.itemsize])


def _without_data(tensor: Tensor) -> Tensor:
    """A tensor that counts the changes in place of ``tensor``, with it, and holds none of its memory."""
    kind = tensor.dtype, tensor.device
    if kind not in _NO_DATA:
        _NO_DATA[kind] = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    counter = tensor.detach()
    counter.data = _NO_DATA[kind]
    return counter
