"""Train with less memory: recompute the outputs of batch normalization in the backward pass."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Hashable, Iterator
from threading import get_ident
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from bnkit.errors import ModelError, SettingsError
from bnkit.memory.recompute_formula_from_graph import Graph
from bnkit.memory.saved_storage import Formula, SavedStorage, equals, run_formula
from bnkit.memory.saved_tensor import KeptTensor, SavedTensor

# The longest chain of outputs recomputed from one another (the end of a residual block from that of the previous
# block): the first one needed in the backward pass requires the whole chain.
_MAX_DEPTH = 3
# Whether formulas of each tried form reproduce their tensors bit by bit.
_REPRODUCED: dict[Hashable, bool] = {}
_MAX_SIGNATURES = 4096
_WRITTEN_IN_PYTHON: Any = torch.autograd.function.BackwardCFunction


class Recomputation:
    """The result of a ``recompute`` context.

    Attributes:
        dropped: The number of tensors that are recomputed in the backward pass instead of kept.
        bytes_dropped: The size of these tensors in bytes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.dropped = 0
        self.bytes_dropped = 0
        self._graph = Graph(model)
        self._thread = get_ident()
        # Weak references in a plain dict: filling a WeakValueDictionary would double the time for each tensor.
        self._storages: dict[int, ref[SavedStorage]] = {}
        # Results saved by the node that computed them, with that node; it can only be read once it is complete.
        self._unread: list[tuple[SavedStorage, Any, int]] = []
        self._unread_number = -1

    def __repr__(self) -> str:
        tensors = "1 tensor" if self.dropped == 1 else f"{self.dropped} tensors"
        return f"{tensors} of {self.bytes_dropped / 1e6:.1f} MB {'is' if self.dropped == 1 else 'are'} computed again"

    def _pack(self, tensor: Tensor) -> SavedTensor | KeptTensor:
        """Called with each tensor that autograd saves; returns what autograd keeps instead."""
        if get_ident() != self._thread:  # node numbers are unique only within a thread
            return KeptTensor(tensor)
        number = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        if self._unread and number != self._unread_number:
            self._read_the_rest()
        node: Any = tensor.grad_fn
        if type(tensor) is not Tensor or tensor.layout is not torch.strided or (node is None and tensor.dim() < 2):
            self._graph.note(number)
            return KeptTensor(tensor)
        key = tensor.untyped_storage()._cdata
        known = self._storages.get(key)
        storage = None if known is None else known()
        if storage is None or not storage.matches(tensor, key):
            storage = SavedStorage(tensor)
            self._storages[key] = ref(storage)
        elif storage.may_drop and storage.was_modified_silently(tensor):
            storage.keep(tensor)
            self.dropped -= 1
            self.bytes_dropped -= storage.nbytes
        saved = SavedTensor(storage, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        self._graph.note(number)
        if node is None:
            return saved
        made_by = self._graph.name(node, tensor.output_nr, saved)
        if storage.formula is None and storage.may_drop:
            if made_by == number and isinstance(node, _WRITTEN_IN_PYTHON):
                self._unread.append((storage, node, tensor.output_nr))
                self._unread_number = number
            else:
                self._drop(storage, node, tensor.output_nr)
        return saved

    def _unpack(self, saved: SavedTensor | KeptTensor) -> Tensor:
        """Called when the backward pass needs a tensor for which ``_pack`` returned ``saved``."""
        if self._graph.unpacked is not None:
            return self._graph.record_unpacked(saved)
        return saved.value()

    def _read_the_rest(self) -> None:
        unread, self._unread = self._unread, []
        for storage, node, number in unread:
            if storage.formula is None:
                self._drop(storage, node, number)

    def _drop(self, storage: SavedStorage, node: Any, number: int) -> None:
        """Drop the tensor of ``storage``, output ``number`` of ``node``, if there is a formula for it."""
        for allow_fused in (True, False):
            formula = self._graph.formula(node, number, storage, allow_fused=allow_fused)
            if formula is None or not formula.has_batch_norm or formula.depth > _MAX_DEPTH:
                return
            if _reproduces(formula, storage):
                storage.drop(formula)
                self.dropped += 1
                self.bytes_dropped += storage.nbytes
                return

    def _close(self) -> None:
        self._read_the_rest()
        self._storages.clear()
        self._graph.close()


def _reproduces(formula: Formula, storage: SavedStorage) -> bool:
    """Whether ``formula`` reproduces the content of ``storage`` bit by bit; tried once for each form."""
    signature = formula.signature(), storage.nbytes, torch.get_num_threads()
    if signature not in _REPRODUCED:
        if formula.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False  # no comparison is possible during CUDA graph capture; earlier passes made it
        if len(_REPRODUCED) >= _MAX_SIGNATURES:
            _REPRODUCED.clear()
        _REPRODUCED[signature] = equals(run_formula(formula), storage)
    return _REPRODUCED[signature]


@contextlib.contextmanager
def recompute(model: nn.Module) -> Iterator[Recomputation]:
    """A context for the forward pass: outputs of batch normalization are not kept, but recomputed in the backward pass.

    The input that the next layer (a convolution, a linear layer, a max-pool, an activation) would keep is recomputed
    when the backward pass needs it, from the input of batch normalization, which is kept anyway. The gradients are
    bit-identical. The context applies to everything that runs in this thread while it is open::

        with bnkit.recompute(model):
            loss = criterion(model(images), targets)
        loss.backward()

    For modules and functions of ``bnkit.nn`` and ``torch.nn``, these outputs are recomputed: those of batch
    normalization, of an activation after it (in place or not), of a sum with a kept or recomputed tensor, as at the end
    of a residual block, and of ``torch.cat`` of several of these. Max-pooling after them keeps the indices of the
    maxima in the smallest possible dtype. All other tensors are kept as usual. Each output is computed once in a
    backward pass, by the function of the forward pass, and freed after its last use. The first output of each form
    (layer, shape, layout, dtype) in a process is recomputed immediately and compared; if the bits differ, outputs of
    this form are kept.

    Args:
        model: The network that runs in the context. It is not changed.

    Yields:
        The result: ``dropped`` tensors of ``bytes_dropped`` bytes are recomputed.

    Raises:
        SettingsError: If ``model`` is not an ``nn.Module``.
        ModelError: Inside a function that ``torch.compile`` compiles, or under a transform of ``torch.func``. In the backward
            pass: the recomputed output differs, because a tensor was changed in a way that autograd does not see (``.data``).
        RuntimeError: In the backward pass, as in PyTorch: a tensor that it needs was changed in place.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)
        ... )
        >>> with recompute(model) as recomputation:
        ...     loss = model(torch.randn(16, 3, 32, 32)).square().mean()
        >>> print(recomputation)
        1 tensor of 0.5 MB is computed again
        >>> loss.backward()
    """
    _check(model)
    recomputation = Recomputation(model)
    with torch.autograd.graph.saved_tensors_hooks(recomputation._pack, recomputation._unpack):
        try:
            yield recomputation
        finally:
            recomputation._close()


def _check(model: object) -> None:
    if _is_under_compile():
        raise ModelError(
            "recompute was entered inside a function that torch.compile compiles, which decides by itself what to keep; "
            "enter it around the call of the compiled function, or do without it"
        )
    if not isinstance(model, nn.Module):
        raise SettingsError(f"recompute got a {type(model).__name__}; expected the model, a torch.nn.Module")
    if torch._C._are_functorch_transforms_active():
        raise ModelError(
            "recompute was entered under a transform of torch.func (grad, vmap, ...), which cannot hand over the tensors "
            "that it keeps; use torch.autograd.grad or backward(), or do without recompute"
        )


def _is_under_compile() -> bool:
    """Whether this runs inside a compiled function, even after a graph break."""
    if torch.compiler.is_compiling():  # also if this function itself is being compiled
        return True
    if "torch._dynamo.eval_frame" not in sys.modules:
        return False
    callback = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None)()
    return callback is not None and callback is not False
