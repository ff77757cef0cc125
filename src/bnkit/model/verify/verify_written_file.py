"""Verify that a written file computes what the model computes: load and run it."""

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
from bnkit.model.edit.deepcopy_model import deepcopy_model
from bnkit.model.inspect.example import Example, largest_difference
from bnkit.model.preserve_state import RngState, preserve_model

# For an example with more values, only a few rows are run if their number is free: the evaluator of ONNX is slow.
_MANY = 1 << 22
# The precision of float32 products on a GPU, as PyTorch computes convolutions by default.
_TF32 = 2.0**-10
# The share of integer outputs, such as classes, that may differ.
_FLIPPED = 0.01

# A function that takes the inputs and returns the floating outputs, in order.
Run = Callable[[Example], list[Tensor]]


def prove_weights(model: nn.Module, path: Path, example: Example | None) -> None:
    """Raise unless a copy of ``model`` with the weights in ``path``, safetensors, has the same tensors and outputs.

    Raises:
        ModelError: It does not; the message gives the difference of the outputs.
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
    except ModelError:  # the model cannot be copied; the tensors were already compared
        return
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()  # so that the right values can only come from the file
        twin.load_state_dict(written)
    with preserve_model(model), torch.no_grad():
        model.eval()
        compare(model, [example], _outputs_of(twin.eval()), path)


def prove_program(model: nn.Module, program: ExportedProgram, path: Path, example: Example) -> None:
    """Raise unless the exported program in ``path`` computes what ``model``, in evaluation mode, does.

    If the first dimension is free, another number of rows is tried too.

    Raises:
        ModelError: It does not; the message gives the difference of the outputs.
    """
    loaded = torch.export.load(path).module()
    compare(model, examples_of(model, program, example), _outputs_of(loaded), path)


def compare_programs(before: nn.Module, program: ExportedProgram, example: Example, done: str) -> float | None:
    """The relative difference of the outputs of the changed ``program`` from those of the module ``before``.

    They are run on the example, and with other numbers of rows if that is free; None without floating-point outputs.

    Args:
        before: The module of the original program.
        program: The changed program.
        example: The input of both.
        done: The change, as a phrase after "the program".

    Raises:
        ModelError: The difference is larger than rounding explains.
    """
    error = 0.0
    run, reference = _outputs_of(program.module()), _outputs_of(before)
    for each in examples_of(before, program, example):
        expected = reference(each.fresh())
        error = max(error, _difference(expected, run(each.fresh())))
        if not error <= tolerance(before, expected):
            raise ModelError(
                f"the exported program {done} computes something else: the outputs differ by {error:.1e} of their largest "
                "magnitude; expected the same: leave places out with `exclude`"
            )
    return error if any(tensor.is_floating_point() for tensor in expected) else None


def compare(model: nn.Module, examples: list[Example], run: Run, path: Path) -> None:
    """Compare the outputs of ``run`` with those of ``model``, for all ``examples``."""
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
    """The largest difference of outputs, relative to their magnitude, that counts as rounding.

    It is the square root of the machine epsilon of the coarsest dtype among parameters and outputs: a deep network may
    lose half of the digits.
    """
    tensors = [tensor for tensor in chain(model.parameters(), outputs) if tensor.is_floating_point()]
    coarsest = max((torch.finfo(tensor.dtype).eps for tensor in tensors), default=torch.finfo(torch.float32).eps)
    if any(tensor.device.type == "cuda" for tensor in tensors):
        coarsest = max(coarsest, _TF32)
    return float(coarsest**0.5)


def _difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """The largest relative difference of floating outputs; infinite if integer outputs differ.

    A few integers may differ: if two scores are nearly equal, rounding decides which is larger.
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
    """Whether the model draws random numbers in evaluation, so that two runs of it differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        again = reference(example.fresh())
    return [t.shape for t in again] == [t.shape for t in expected] and _difference(expected, again) > limit


def free_rows(program: ExportedProgram) -> dict[str, Any]:
    """The first dimension of each input for which it is free in ``program``, by the name of the input."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = {name: values.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)}
    return {name: value.shape[0] for name, value in inputs.items() if isinstance(value, Tensor) and _is_free(value)}


def examples_of(
    model: nn.Module, program: ExportedProgram, example: Example, sizes: Sequence[int] = (3, 2), most: int = 1
) -> list[Example]:
    """The example, and up to ``most`` examples with other numbers of rows; for a large example, only the latter.

    Args:
        model, program, example: The model and program to run, and the input.
        sizes: Numbers of rows to try, in addition to twice that of the example.
        most: The number of other examples; one more if they replace a large example.
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
            with suppress(Exception):  # the model or the program does not take this number of rows
                other.fresh().run(model)
                taken = other.fresh()
                program.module()(*taken.arguments, **taken.keywords)
                others.append(other)
    return others if len(others) > most else [example, *others]


def _with_rows(example: Example, count: int, size: int) -> Example:
    """The example with ``size`` rows instead of ``count``: truncated or repeated."""

    def change(value: Tensor) -> Tensor:
        is_batch = value.dim() > 0 and len(value) == count
        return value[torch.arange(size, device=value.device) % count] if is_batch else value

    return example.map_tensors(change)


def _is_free(value: Tensor) -> bool:
    size: Any = value.shape[0] if value.dim() else 0
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None  # not fixed by the model


def _outputs_of(model: nn.Module) -> Run:
    def run(example: Example) -> list[Tensor]:
        with torch.no_grad():
            return [tensor.detach().cpu().clone() for tensor in leaves(example.run(model))]

    return run


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in the order that exported programs use."""
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _holds_the_same(one: Tensor, other: Tensor) -> bool:
    """Whether both tensors are equal bit by bit."""
    other = other.detach().cpu()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)))
