"""Detect outputs that do not fit the loss, such as probabilities where it expects logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bnkit.experiments.training.losses import NamedLoss, OutputKind, targets_fit
from bnkit.seeding import seeded

# Outputs of a linear layer have both signs: all draws look like those of a ReLU by chance in one of 65,000 networks.
_DRAWS = 16
_EXAMPLES = 16
_TOLERANCE = 1e-3


def loss_mismatch(network: str, loss: NamedLoss, model: nn.Module, inputs: Tensor, targets: Tensor) -> str | None:
    """A sentence that says why the outputs of a network do not fit ``loss``; None if they may.

    Judged by the outputs for real examples, with the present weights and with random ones: a linear layer may return
    numbers from 0 to 1 by chance, but not with all weights.

    Args:
        network: Its name in the message.
        loss: The loss that it is trained by.
        model: The network, whose weights are overwritten.
        inputs, targets: Real examples, on its device.
    """
    with torch.no_grad():
        outputs = model.eval()(inputs)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.dim() < 1:
        return None
    if targets.is_floating_point() and not targets_fit(targets, loss.targets):
        return f"network {network}: {loss.name} is made for targets {loss.targets.value}, and these are not"
    if loss.outputs is OutputKind.LOG_PROBABILITIES:
        return None if _are_log_probabilities(outputs) else _no_log_probabilities(network, loss, outputs)
    for matches, what in _suspected_activations(loss, outputs, targets):
        if matches(outputs) and all(matches(drawn) for drawn in _with_other_weights(model, inputs[:_EXAMPLES])):
            return f"network {network}: {what}"
    return None


def _suspected_activations(
    loss: NamedLoss, outputs: Tensor, targets: Tensor
) -> Iterator[tuple[Callable[[Tensor], bool], str]]:
    """Tests of outputs for activations that do not fit ``loss``, the most specific first, each with its message."""
    many = outputs.dim() > 1 and outputs.shape[1] > 1
    name, remedy = loss.name, "return the scores before it"
    if loss.outputs is OutputKind.SCORES and many:
        yield (
            _are_log_probabilities,
            (
                f"its outputs are logarithms of probabilities (a log_softmax), and {name} expects scores; nll_loss fits, or {remedy}"
            ),
        )
    if loss.outputs in (OutputKind.SCORES, OutputKind.LOGITS):
        again = f"{name} expects scores and turns them into probabilities itself, so that it hardly learns; {remedy}"
        if many:
            yield (
                _are_probabilities,
                f"its outputs are probabilities (a softmax: from 0 to 1, and each row sums to 1), and {again}",
            )
        yield _are_within_zero_one, f"its outputs lie from 0 to 1 (a sigmoid), and {again}"
        yield (
            _are_not_negative,
            (f"its outputs are never negative (a ReLU), and {name} expects scores of either sign; {remedy}"),
        )
    if loss.outputs is OutputKind.LOGITS:
        yield (
            _are_not_positive,
            (f"its outputs are never positive (a logarithm), and {name} expects scores of either sign; {remedy}"),
        )
    if loss.outputs is OutputKind.LOG_RATES:
        yield (
            _are_not_negative,
            (
                f"its outputs are never negative, and {name} expects the logarithms of rates, which are below 0 for a rate below 1"
            ),
        )
    if loss.outputs is OutputKind.VALUES and targets.is_floating_point():
        low, high = targets.min().item(), targets.max().item()
        reach = f"and the targets, from {low:.4g} to {high:.4g}, are out of their reach; leave it out"
        if low < 0 or high > 1:
            yield _are_within_zero_one, f"its outputs lie from 0 to 1 (a sigmoid), {reach}"
        if low < -1 or high > 1:
            yield _are_within_one, f"its outputs lie from −1 to 1 (a tanh), {reach}"
        if low < 0:
            yield _are_not_negative, f"its outputs are never negative (a ReLU), {reach}"


def _no_log_probabilities(network: str, loss: NamedLoss, outputs: Tensor) -> str:
    instead = "cross_entropy, which takes scores" if loss.name == "nll_loss" else "another loss"
    they_are = "are probabilities (a softmax)" if _are_probabilities(outputs) else "are not"
    return (
        f"network {network}: {loss.name} expects {loss.outputs.value}, and its outputs {they_are}; end the network with "
        f"log_softmax, or take {instead}"
    )


def _with_other_weights(model: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """The outputs of ``model`` with several draws of random weights."""
    with torch.no_grad(), seeded("misfit"):
        for _ in range(_DRAWS):
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    # Outputs on the scale of the inputs, and biases on the same scale, keep signals from vanishing.
                    parameter.normal_(0, 1 / math.sqrt(max(parameter[0].numel(), 1)) if parameter.dim() > 1 else 1.0)
            yield model(inputs)


def _are_log_probabilities(outputs: Tensor) -> bool:
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        return False
    return _holds(outputs <= _TOLERANCE) and _holds(outputs.logsumexp(1).abs() < _TOLERANCE)


def _are_probabilities(outputs: Tensor) -> bool:
    return outputs.dim() > 1 and _are_within_zero_one(outputs) and _holds((outputs.sum(1) - 1).abs() < _TOLERANCE)


def _are_within_zero_one(outputs: Tensor) -> bool:
    return _holds((outputs >= 0) & (outputs <= 1))


def _are_within_one(outputs: Tensor) -> bool:
    return _holds(outputs.abs() <= 1)


def _are_not_negative(outputs: Tensor) -> bool:
    return _holds(outputs >= 0)


def _are_not_positive(outputs: Tensor) -> bool:
    return _holds(outputs <= 0)


def _holds(everywhere: Tensor) -> bool:
    return bool(everywhere.all())
