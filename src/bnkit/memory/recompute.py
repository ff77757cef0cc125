"""Training in less memory: the outputs of batch normalization are computed again where the backward pass needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from bnkit.errors import ModelError, SettingsError
from bnkit.memory.content import Content, computed, equals
from bnkit.memory.graph import Graph
from bnkit.memory.recipe import Recipe
from bnkit.memory.saved import Kept, Saved

# Outputs that are computed again from one another (the end of a residual block from the end of the block before) are so
# many in a row at most: the first of them to be needed takes all of them.
_MOST_LINKS = 3
# A tensor with a recipe of a form that has been tried: whether it computes what it has to, bit by bit.
_TRIED: dict[Hashable, bool] = {}
_MOST_FORMS = 4096


class Recomputation:
    """What a ``recompute`` context found.

    Attributes:
        dropped: How many tensors are computed again in the backward pass, instead of kept.
        bytes_dropped: How many bytes they have.
    """

    def __init__(self, model: nn.Module) -> None:
        self.dropped = 0
        self.bytes_dropped = 0
        self._graph = Graph(model)
        self._contents: WeakValueDictionary[int, Content] = WeakValueDictionary()
        # Tensors that a node saved of its own results, and that node: it can be read when it is complete.
        self._unread: list[tuple[Content, Any, int]] = []

    def __repr__(self) -> str:
        return f"{self.dropped} tensors of {self.bytes_dropped / 1e6:.1f} MB are computed again"

    def _pack(self, tensor: Tensor) -> Saved | Kept:
        """Called with each tensor that autograd saves; what stands in its place."""
        number = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        self._read_the_rest()
        node = tensor.grad_fn
        if type(tensor) is not Tensor or tensor.layout is not torch.strided or (node is None and tensor.dim() < 2):
            self._graph.note(number)
            return Kept(tensor)
        key = tensor.untyped_storage()._cdata
        content = self._contents.get(key)
        if content is None or not content.is_of(tensor, key):
            content = self._contents[key] = Content(tensor)
        elif content.was_changed_unseen(tensor):
            content.keep(tensor)
        saved = Saved(content, tensor)
        self._graph.note(number)
        if node is None:
            return saved
        made_by = self._graph.name(node, tensor.output_nr, saved)
        if content.recipe is None:
            if made_by == number and isinstance(node, torch.autograd.function.BackwardCFunction):
                self._unread.append((content, node, tensor.output_nr))
            else:
                self._drop(content, node, tensor.output_nr)
        return saved

    def _unpack(self, saved: Saved | Kept) -> Tensor:
        """Called where the backward pass needs what ``_pack`` returned."""
        if self._graph.seen is not None:
            return self._graph.looked_at(saved)
        return saved.value()

    def _read_the_rest(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, []
            for content, node, number in unread:
                if content.recipe is None:
                    self._drop(content, node, number)

    def _drop(self, content: Content, node: Any, number: int) -> None:
        """Let the tensor of ``content`` go, output ``number`` of ``node``, if it is known how to compute it again."""
        if not content.dtype.is_floating_point or content.nbytes == 0:
            return
        recipe = self._graph.recipe(node, number)
        if recipe is None or not recipe.norms or recipe.links > _MOST_LINKS or not _computes(recipe, content):
            return
        content.drop(recipe)
        self.dropped += 1
        self.bytes_dropped += content.nbytes

    def _close(self) -> None:
        self._read_the_rest()
        self._contents.clear()
        self._graph.close()


def _computes(recipe: Recipe, content: Content) -> bool:
    """Whether ``recipe`` computes what ``content`` keeps, bit by bit; tried once for each form."""
    form = recipe.form(), content.nbytes, torch.get_num_threads()
    if form not in _TRIED:
        if recipe.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False  # nobody can compare in a graph that is being recorded; passes before it did
        if len(_TRIED) >= _MOST_FORMS:
            _TRIED.clear()
        _TRIED[form] = equals(computed(recipe), content)
    return _TRIED[form]


@contextlib.contextmanager
def recompute(model: nn.Module) -> Iterator[Recomputation]:
    """doc"""
    _check(model)
    found = Recomputation(model)
    with torch.autograd.graph.saved_tensors_hooks(found._pack, found._unpack):
        try:
            yield found
        finally:
            found._close()


def _check(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise SettingsError(f"recompute got a {type(model).__name__}; expected the model, a torch.nn.Module")
    if torch.compiler.is_compiling():
        raise ModelError("c")
    if torch._C._are_functorch_transforms_active():
        raise ModelError("f")
