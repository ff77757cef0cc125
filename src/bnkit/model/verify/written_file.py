"""Proof that a file holds what the model computes: loaded again, and run against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bnkit.errors import ModelError
from bnkit.model.edit.copy import deepcopy_model
from bnkit.model.inspect.example import Example, largest_difference
from bnkit.model.state import RngState, preserve_model

# Of an example with more values, a few rows are run where the number of rows is free: the evaluator of ONNX is slow.
_MANY = 1 << 22
# The precision of float32 products on a GPU, as PyTorch computes convolutions by default.
_TF32 = 2.0**-10
# The share of whole numbers among the outputs, as classes, that may be others.
_FLIPPED = 0.01

# What takes the inputs and returns the floating outputs, in their order.
Run = Callable[[Example], list[Tensor]]


def prove_weights(model: nn.Module, path: Path, example: Example | None) -> None:
    """Raise unless ``path``, safetensors, gives a copy of ``model`` its tensors back, and with them its outputs.

    Raises:
        ModelError: It does not; the message says by how much the outputs are off.
    """
    written, expected = load_file(path), model.state_dict()
    for key, tensor in expected.items():
        if key not in written or not _holds_the_same(written[key], tensor):
            raise ModelError(
                f"{path.name} does not give {key} of {type(model).__name__} back; nothing was written; expected a model whose "
                "state_dict holds its tensors as they are"
            )
    if example is None:
        return
    try:
        twin = deepcopy_model(model)
    except ModelError:  # the tensors are right, and there is nothing to load them into
        return
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()  # so that only what is in the file can be right
        twin.load_state_dict(written)
    with preserve_model(model), torch.no_grad():
        model.eval()
        compare(model, [example], _outputs_of(twin.eval()), path)


def prove_program(model: nn.Module, program: ExportedProgram, path: Path, example: Example) -> None:
    """Raise unless the exported program in ``path`` computes what ``model`` does, which evaluates.

    Where the first dimension is free, with another number of rows too.

    Raises:
        ModelError: It does not; the message says by how much the outputs are off.
    """
    loaded = torch.export.load(path).module()
    compare(model, examples_of(model, program, example), _outputs_of(loaded), path)


def compare_programs(before: nn.Module, program: ExportedProgram, example: Example, done: str) -> float | None:
    """How far the outputs of ``program``, a changed one, are from those of the module ``before``, over their magnitude.

    On the example, and with other numbers of rows where that is free; None where they hold no floating-point numbers.

    Args:
        before: The module of the program before.
        program: The changed program.
        example: What both are called with.
        done: What was done to it, to be read after "the program".

    Raises:
        ModelError: They are further apart than rounding explains.
    """
    error = 0.0
    run, reference = _outputs_of(program.module()), _outputs_of(before)
    for each in examples_of(before, program, example):
        expected = reference(each.fresh())
        error = max(error, _difference(expected, run(each.fresh())))
        if not error <= tolerance(before, expected):
            raise ModelError(
                f"the exported program {done} computes something else: the outputs differ by {error:.1e} of their largest "
                "magnitude; expected the same: leave places out with exclude"
            )
    return error if any(tensor.is_floating_point() for tensor in expected) else None


def compare(model: nn.Module, examples: list[Example], run: Run, path: Path) -> None:
    """Hold what ``run`` gives against what ``model`` computes, for all of ``examples``."""
    reference = _outputs_of(model)
    for example in examples:
        state = RngState()
        expected = reference(example.fresh())
        after = RngState()
        state.restore()
        error = _difference(expected, run(example.fresh()))
        after.restore()
        limit = tolerance(model, expected)
        if not error <= limit and not _draws(reference, example, expected, limit):
            rows = next((len(tensor) for tensor in leaves((example.arguments, example.keywords)) if tensor.dim()), 0)
            raise ModelError(
                f"{path.name} would not compute what {type(model).__name__} does: on {rows} rows the outputs differ by "
                f"{error:.1e} of their largest magnitude, where rounding makes {limit:.0e} at most; nothing was written; expected "
                "equal outputs: write another format, or change the layer that cannot be exported"
            )


def tolerance(model: nn.Module, outputs: list[Tensor]) -> float:
    """The largest difference of outputs, as a share of their magnitude, that is taken for rounding.

    The square root of the machine epsilon, of the coarsest dtype among parameters and outputs: half of the digits may be
    lost on the way through a deep network.
    """
    tensors = [tensor for tensor in chain(model.parameters(), outputs) if tensor.is_floating_point()]
    coarsest = max((torch.finfo(tensor.dtype).eps for tensor in tensors), default=torch.finfo(torch.float32).eps)
    if any(tensor.device.type == "cuda" for tensor in tensors):
        coarsest = max(coarsest, _TF32)
    return float(coarsest**0.5)


def _difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """The largest difference of floating outputs over their magnitude; infinite where whole numbers are others.

    A few may be: where two scores are nearly equal, rounding decides which is the larger.
    """
    error = largest_difference(expected, got)
    pairs = [
        (one, other)
        for one, other in zip(expected, got, strict=False)
        if not (one.is_floating_point() or one.is_complex()) and one.shape == other.shape and one.numel()
    ]
    is_other = any(float((one != other).double().mean()) > _FLIPPED for one, other in pairs)
    return float("inf") if is_other else error


def _draws(reference: Run, example: Example, expected: list[Tensor], limit: float) -> bool:
    """Whether the model draws random numbers in evaluation, so that no two runs of it agree either."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        again = reference(example.fresh())
    return [t.shape for t in again] == [t.shape for t in expected] and _difference(expected, again) > limit


def free_rows(program: ExportedProgram) -> dict[str, Any]:
    """Of each input whose first dimension is free in ``program``: that dimension, by the name of the input."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = {name: values.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)}
    return {name: value.shape[0] for name, value in inputs.items() if isinstance(value, Tensor) and _is_free(value)}


def examples_of(
    model: nn.Module, program: ExportedProgram, example: Example, sizes: Sequence[int] = (3, 2), most: int = 1
) -> list[Example]:
    """The example, and ``most`` others with other numbers of rows, where the program takes them; of a large one, those alone.

    Args:
        model, program, example: What is to be run, and on what.
        sizes: Numbers of rows to try, and twice that of the example.
        most: How many others; one more where the example is so large that others are run in its place.
    """
    tensors = list(leaves((example.arguments, example.keywords)))
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    pairs = zip((value for value in inputs if isinstance(value, Tensor)), tensors, strict=False)
    counts = {len(tensor) for value, tensor in pairs if _is_free(value)}
    if len(counts) != 1:
        return [example]
    (count,) = counts
    is_large = sum(tensor.numel() for tensor in tensors) > _MANY
    others: list[Example] = []
    for size in (*sizes, 2 * count):
        if size != count and len(others) < most + is_large:
            other = _with_rows(example, count, size)
            with suppress(Exception):  # then the model does not take that many, or the program says so itself
                other.fresh().run(model)
                taken = other.fresh()
                program.module()(*taken.arguments, **taken.keywords)
                others.append(other)
    return others if len(others) > most else [example, *others]


def _with_rows(example: Example, count: int, size: int) -> Example:
    """The example with ``size`` rows in place of ``count``: some left out, or all repeated."""

    def change(value: Tensor) -> Tensor:
        is_batch = value.dim() > 0 and len(value) == count
        return value[torch.arange(size, device=value.device) % count] if is_batch else value

    return example.map_tensors(change)


def _is_free(value: Tensor) -> bool:
    size: Any = value.shape[0] if value.dim() else 0
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None  # not one that the model has fixed


def _outputs_of(model: nn.Module) -> Run:
    def run(example: Example) -> list[Tensor]:
        with torch.no_grad():
            return [tensor.detach().cpu().clone() for tensor in leaves(example.run(model))]

    return run


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in the order of exported programs."""
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _holds_the_same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit."""
    other = other.detach().cpu()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)))
