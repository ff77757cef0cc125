"""Verify that a changed model trains as before, by outputs, gradients and buffers of one step in each mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.errors import ModelError
from bnkit.model.inspect.example import Example, tensors_in
from bnkit.model.preserve_state import RngState, preserve_model
from bnkit.model.verify.verify_changed_model import tolerance

# The tolerance for the algebra in float64, after rounding in some hundred layers.
_EXACT = 1e-8


def check_trains_alike(before: nn.Module, after: nn.Module, example: Example) -> None:
    """Compare two disposable models whose parameters and buffers have the same names; in float64 if possible.

    A mode in which ``before`` does not run on the example is skipped, such as training on one value per channel.

    Raises:
        ModelError: They differ, or ``after`` does not run in a mode in which ``before`` does.
    """
    limit, in_float64 = _EXACT, example.to(torch.float64)
    state = {name: tensor.dtype for name, tensor in (*before.named_parameters(), *before.named_buffers())}
    try:
        expected = _Steps(before.double(), in_float64)
        example = in_float64
        after = after.double()
    except ModelError:
        for model in (before, after):
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.data = tensor.data.to(state[name])
        limit, expected = tolerance(before), _Steps(before, example)
    got = _Steps(after, example)
    for kind, values in expected.tensors.items():
        largest = max((float(value.double().abs().max()) for value in values.values() if value.numel()), default=0.0)
        for name, value in values.items():
            other = got.tensors.get(kind, {}).get(name)
            if other is None or other.shape != value.shape or not _are_close(value, other, limit * max(largest, 1e-30)):
                raise ModelError(
                    f"{type(before).__name__} computes something else with its batch norms fused: {kind}, {name or 'the model'}; "
                    "expected the same: leave places out with `exclude`"
                )


def _are_close(one: Tensor, other: Tensor, limit: float) -> bool:
    difference = (one.double() - other.double()).abs()
    alike = (difference <= limit) | (one == other) | (one.isnan() & other.isnan())
    return bool(alike.all())


class _Steps:
    """The results of a model in training and in evaluation with and without gradients, from the same state."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        self.tensors: dict[str, dict[str, Tensor]] = {}
        errors: list[ModelError] = []
        state = RngState()
        for mode in ("training", "evaluation", "inference"):
            state.restore()
            with preserve_model(model), torch.set_grad_enabled(mode != "inference"):
                try:
                    self._run(model.train(mode == "training"), example, mode)
                except ModelError as error:
                    errors.append(error)
        state.restore()
        if len(errors) == 3:
            raise errors[0]

    def _run(self, model: nn.Module, example: Example, mode: str) -> None:
        torch.manual_seed(0)
        inputs = example.fresh()
        output = inputs.run(model)
        outputs = {path: tensor for path, tensor in tensors_in(output) if tensor.is_floating_point()}
        self.tensors[f"outputs in {mode}"] = {path: tensor.detach() for path, tensor in outputs.items()}
        if mode == "training":
            self.tensors["buffers"] = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        differentiated = [tensor for tensor in outputs.values() if tensor.requires_grad]
        if mode != "inference" and differentiated and learning:
            upstream = list(_upstream(differentiated))
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                differentiated, list(learning.values()), upstream, allow_unused=True
            )
            self.tensors[f"gradients in {mode}"] = {
                name: gradient for name, gradient in zip(learning, gradients, strict=True) if gradient is not None
            }


def _upstream(outputs: list[Any]) -> Iterator[Tensor]:
    """Fixed gradients for the outputs, which depend only on the shapes."""
    generator = torch.Generator().manual_seed(0)
    for output in outputs:
        yield torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
