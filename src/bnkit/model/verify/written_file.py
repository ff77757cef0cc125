"""Proof that a file holds what the model computes: loaded again, and run against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
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
        _compare(model, [example], _outputs_of(twin.eval()), path)


def prove_program(model: nn.Module, program: ExportedProgram, path: Path, example: Example) -> None:
    """Raise unless the exported program in ``path`` computes what ``model`` does, which evaluates.

    Where the first dimension is free, with another number of rows too.

    Raises:
        ModelError: It does not; the message says by how much the outputs are off.
    """
    loaded = torch.export.load(path).module()
    _compare(model, _examples(model, program, example), _outputs_of(loaded), path)


def prove_onnx(model: nn.Module, program: ExportedProgram, path: Path, example: Example) -> None:
    """Raise unless the ONNX file in ``path``, run by onnx's reference evaluator, computes what ``model`` does, which evaluates.

    Where the first dimension is free, with another number of rows too.

    Args:
        model: In evaluation mode.
        program: What the file was made of.
        path: The file.
        example: What the program was exported with.

    Raises:
        ModelError: It does not, or cannot be run; the message says by how much the outputs are off.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    from bnkit.model.verify.onnx_operators import ConvTranspose

    loaded = onnx.load(str(path))
    names = [entry.name for entry in loaded.graph.input]
    evaluator: Any = None

    def run(example: Example) -> list[Tensor]:
        nonlocal evaluator
        inputs = [_as_array(tensor) for tensor in _leaves((example.arguments, example.keywords))]
        try:
            evaluator = evaluator or ReferenceEvaluator(loaded, new_ops=[ConvTranspose])
            outputs = evaluator.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:
            raise ModelError(
                f"{path.name} cannot be run by onnx's reference evaluator ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}), so that it is not known to be right; nothing was written; expected a "
                "model that ONNX can hold: write .pt2 or .safetensors"
            ) from error
        return [_as_tensor(output) for output in outputs]

    _compare(model, _examples(model, program, example), run, path)


def _compare(model: nn.Module, examples: list[Example], run: Run, path: Path) -> None:
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
            rows = next((len(tensor) for tensor in _leaves((example.arguments, example.keywords)) if tensor.dim()), 0)
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


def _examples(model: nn.Module, program: ExportedProgram, example: Example) -> list[Example]:
    """The example, and one with another number of rows, where the program takes that; of a large example, two with few rows."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    tensors = list(_leaves((example.arguments, example.keywords)))
    pairs = zip((value for value in inputs if isinstance(value, Tensor)), tensors, strict=False)
    counts = {len(tensor) for value, tensor in pairs if _is_free(value)}
    if len(counts) != 1:
        return [example]
    (count,) = counts
    is_large = sum(tensor.numel() for tensor in tensors) > _MANY
    others: list[Example] = []
    for size in (3, 2, 2 * count):
        if size != count and len(others) < 1 + is_large:
            other = _with_rows(example, count, size)
            with suppress(Exception):  # then the model does not take that many, or the program says so itself
                other.fresh().run(model)
                taken = other.fresh()
                program.module()(*taken.arguments, **taken.keywords)
                others.append(other)
    return others if len(others) == 2 else [example, *others]


def _with_rows(example: Example, count: int, size: int) -> Example:
    """The example with ``size`` rows in place of ``count``: some left out, or all repeated."""

    def change(value: Tensor) -> Tensor:
        is_batch = value.dim() > 0 and len(value) == count
        return value[torch.arange(size, device=value.device) % count] if is_batch else value

    return example.map_tensors(change)


def _is_free(value: Tensor) -> bool:
    return value.dim() > 0 and isinstance(value.shape[0], torch.SymInt)


def _outputs_of(model: nn.Module) -> Run:
    def run(example: Example) -> list[Tensor]:
        with torch.no_grad():
            return [tensor.detach().cpu().clone() for tensor in _leaves(example.run(model))]

    return run


def _leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in the order of exported programs."""
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))


def _as_array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes  # comes with onnx

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _as_tensor(array: Any) -> Tensor:
    array = np.asarray(array)
    return torch.from_numpy(np.ascontiguousarray(array if array.dtype.kind in "fciub" else array.astype(np.float32)))


def _holds_the_same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit."""
    other = other.detach().cpu()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)))
