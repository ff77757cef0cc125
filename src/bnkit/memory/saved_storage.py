"""The saved content of a storage: the tensor itself, or a formula to recompute it."""

from __future__ import annotations

from collections.abc import Hashable
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from bnkit.errors import ModelError
from bnkit.memory import backward_callbacks

# The number of compared elements: a change of one element in ten is missed once in a thousand times.
_SAMPLED = 64
# Integer dtypes by element size: they compare bits, so that NaN equals itself.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NO_DATA: dict[tuple[torch.dtype, torch.device], Tensor] = {}
# A backward pass over several devices uses one thread for each.
_one_at_a_time = RLock()


class Formula(Protocol):
    """A way to recompute a tensor.

    Attributes:
        has_batch_norm: Whether it includes batch normalization; only then is recomputing worthwhile.
        depth: The length of the longest chain of recomputed outputs that it depends on.
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
        """A key that is equal for formulas that differ only in their values."""
        ...


class SavedStorage:
    """The content of a storage at one version: kept, or recomputed while it is needed.

    A storage is identified by its address and a weak reference, which prevents another object from getting the same
    address. The address of the data, in contrast, is reused as soon as they are freed.

    Attributes:
        key: The address of the storage (not of the data).
        version: The version counter (the number of in-place changes) at that time.
        dtype, nbytes: The dtype and size of the whole storage.
        tensor: The content if it is kept, outside the graph; otherwise None.
        formula: The formula if the content is not kept.
        may_drop: Whether it may be dropped.
    """

    __slots__ = (
        "__weakref__", "_counter", "_generation", "_pending", "_recomputed", "_sample", "_storage", "_users",
        "dtype", "formula", "key", "may_drop", "nbytes", "tensor", "version",
    )  # fmt: skip

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.key: int = storage._cdata
        self._storage = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self.version: int = tensor._version
        self.dtype = tensor.dtype
        self.nbytes: int = storage.nbytes()
        # Detached, because a node must not reference itself. A leaf has no node.
        self.tensor: Tensor | None = tensor if tensor.is_leaf else tensor.detach()
        self.formula: Formula | None = None
        self.may_drop = tensor.dtype.is_floating_point and self.nbytes > 0
        self._counter: Tensor | None = None
        self._sample: Tensor | None = None
        self._recomputed: Tensor | None = None
        self._users = self._pending = self._generation = 0

    def matches(self, tensor: Tensor, key: int) -> bool:
        """Whether this is the current content of ``tensor``, whose storage has the address ``key``."""
        return (
            self.key == key
            and self.version == tensor._version
            and self.dtype == tensor.dtype
            and not self._storage.expired()  # type: ignore[no-untyped-call]
        )

    def drop(self, formula: Formula) -> None:
        """Drop the tensor; from now on ``formula`` computes it."""
        assert self.tensor is not None
        self._sample = _sample(self.tensor, self.nbytes).clone()
        self._counter = _without_data(self.tensor)
        self.formula, self.tensor = formula, None

    def keep(self, tensor: Tensor) -> None:
        """Keep ``tensor``, of this storage, again."""
        self.tensor, self.formula, self._sample, self._counter = tensor.detach(), None, None, None
        self.may_drop = False

    def was_modified_silently(self, tensor: Tensor) -> bool:
        """Whether ``tensor``, of this storage, differs from the dropped content although its version is the same.

        Only checked on the CPU; on other devices, the check would have to wait for the device.
        """
        if self._sample is None or tensor.device.type != "cpu":
            return False
        return not _same(_sample(tensor, self.nbytes), self._sample)

    def is_current(self) -> bool:
        """Whether the storage was not changed in place since."""
        counted: Any = self._counter if self.tensor is None else self.tensor
        return bool(counted._version == self.version)

    def begin_use(self) -> int:
        """Register a user, and return the generation to pass to ``value``."""
        self._users += 1
        return self._generation

    def end_use(self, generation: int) -> None:
        """Unregister a user."""
        with _one_at_a_time:
            self._users -= 1
            if generation != self._generation:
                self._served()

    def value(self, generation: int) -> tuple[Tensor, int]:
        """The content, for a user last served in ``generation``, and the current generation.

        In a backward pass, a recomputed tensor is kept until all users have been served, or until the end of the pass.

        Raises:
            RuntimeError: It was changed in place; the same error as PyTorch's.
            ModelError: The recomputed content differs from the dropped one.
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
                if not backward_callbacks.is_running():
                    return tensor, generation
                self._recomputed, self._pending = tensor, self._users
                self._generation += 1
                backward_callbacks.release_at_the_end(self)
            if generation != self._generation:
                self._served()
            return tensor, self._generation

    def release(self) -> None:
        """Free the recomputed tensor."""
        self._recomputed = None

    def _served(self) -> None:
        self._pending -= 1
        if self._pending <= 0:
            self._recomputed = None

    def _recompute(self) -> Tensor:
        assert self.formula is not None
        tensor = run_formula(self.formula)
        assert self._sample is not None
        if _same_layout(tensor, self):
            sample = _sample(tensor, self.nbytes)
            if backward_callbacks.would_synchronize(tensor):
                backward_callbacks.check_at_the_end((_bits(sample) != _bits(self._sample)).any())
                return tensor
            if _same(sample, self._sample):
                return tensor
        raise ModelError(backward_callbacks.CHANGED)


def run_formula(formula: Formula) -> Tensor:
    """Compute ``formula`` without gradients and without autocast."""
    device = formula.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return run_formula(formula)
    if torch.is_grad_enabled():  # rarely the case, and switching it takes as long as a small loop
        with torch.no_grad():
            return formula.compute()[0]
    return formula.compute()[0]


def equals(tensor: Tensor, storage: SavedStorage) -> bool:
    """Whether ``tensor`` equals the content of ``storage`` bit by bit, with the same layout; any NaN equals any NaN."""
    assert storage.tensor is not None
    return _same_layout(tensor, storage) and _same_bits(_flat(tensor), _flat(storage.tensor))


def _same_layout(tensor: Tensor, storage: SavedStorage) -> bool:
    return (
        tensor.dtype == storage.dtype
        and tensor.storage_offset() == 0
        and tensor.untyped_storage().nbytes() == storage.nbytes
    )


def _flat(tensor: Tensor) -> Tensor:
    """The whole storage of ``tensor`` as a 1-d tensor."""
    return tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)


def _sample(tensor: Tensor, nbytes: int) -> Tensor:
    """Some elements of the storage of ``tensor``, which has ``nbytes``; a view."""
    count = nbytes // tensor.itemsize
    if count <= _SAMPLED:
        return tensor.as_strided((count,), (1,), 0)
    step = (count - 1) // (_SAMPLED - 1)
    # An odd step, which rarely divides the size of a row, so that different columns are sampled.
    step = max(step - 1 + step % 2, 1)
    return tensor.as_strided((_SAMPLED,), (step,), count - 1 - step * (_SAMPLED - 1))


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same values; any NaN equals any NaN."""
    return torch.equal(a, b) or _same_bits(a, b)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same bits, except for the bits of NaN, which may depend on the order of a sum."""
    a = a.contiguous()
    if torch.equal(_bits(a), _bits(b)):
        return True
    if not a.dtype.is_floating_point:
        return False
    return not bool(((_bits(a) != _bits(b)) & ~(a.isnan() & b.isnan())).any())


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_BITS[tensor.itemsize])


def _without_data(tensor: Tensor) -> Tensor:
    """A tensor that shares the version counter of ``tensor``, but not its memory."""
    kind = tensor.dtype, tensor.device
    if kind not in _NO_DATA:
        _NO_DATA[kind] = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    counter = tensor.detach()
    counter.data = _NO_DATA[kind]
    return counter
