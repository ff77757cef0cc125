"""The losses of ``torch.nn.functional`` that fit a data set's targets, and their expected outputs and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnkit.data import DataSet
from bnkit.experiments.training.metrics import is_correct

# (outputs, targets) -> the mean loss over the batch, 0-dimensional.
Loss = Callable[[Tensor, Tensor], Tensor]


class OutputKind(Enum):
    """The outputs that a loss expects from a network."""

    SCORES = "a score for each class, of any size"
    LOGITS = "scores of any size, above 0 for yes"
    LOG_PROBABILITIES = "logarithms of probabilities, as log_softmax gives them"
    PROBABILITIES = "probabilities, from 0 to 1, as a sigmoid gives them"
    LOG_RATES = "logarithms of the rates that are expected"
    VALUES = "what is to be predicted"


class TargetKind(Enum):
    """The targets that a loss expects."""

    ANY = "of any size"
    SHARES_OF_ONE = "from 0 to 1"
    SIGNS = "-1 or 1"
    DISTRIBUTIONS = "shares that are not negative and sum to 1 for each example"
    COUNTS = "not negative"


@dataclass(frozen=True)
class NamedLoss:
    """A loss of ``torch.nn.functional``.

    Attributes:
        name: Its name in ``torch.nn.functional``.
        function: The function of outputs and targets, with the targets in the form of a data set.
        outputs, targets: The kinds that it expects.
        right: Computes which answers are right, if there are answers.
        link: Maps outputs to predicted values; None if they are these values.
    """

    name: str
    function: Loss
    outputs: OutputKind
    targets: TargetKind = TargetKind.ANY
    right: Callable[[Tensor, Tensor], Tensor] | None = None
    link: Callable[[Tensor], Tensor] | None = None


def _targets_like(targets: Tensor, outputs: Tensor) -> Tensor:
    """Class numbers 0 and 1 in the dtype of the outputs; (N,) as (N, 1) if the outputs have that shape."""
    if not targets.is_floating_point():
        targets = targets.to(outputs.dtype)
    return targets[:, None] if targets.dim() == 1 and outputs.dim() == 2 else targets


def _binary(loss: Loss) -> Loss:
    return lambda outputs, targets: loss(outputs, _targets_like(targets, outputs))


def _correct_above(threshold: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether an output is above ``threshold`` where the target is above one half, and only there."""

    def right(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs > threshold) == (_targets_like(targets, outputs) > 0.5)

    return right


def _soft_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    signs = _targets_like(targets, outputs)
    return functional.soft_margin_loss(outputs, signs if targets.is_floating_point() else 2 * signs - 1)


def _kl_div(outputs: Tensor, targets: Tensor) -> Tensor:
    # "mean" also divides by the number of classes, which is not the divergence; torch warns of it.
    return functional.kl_div(outputs, targets, reduction="batchmean")


_CROSS_ENTROPY = NamedLoss("cross_entropy", functional.cross_entropy, OutputKind.SCORES, right=is_correct)
_SOFT_CROSS_ENTROPY = NamedLoss(
    "cross_entropy", functional.cross_entropy, OutputKind.SCORES, TargetKind.DISTRIBUTIONS, is_correct
)
_CLASS_LOSSES = (
    _CROSS_ENTROPY,
    NamedLoss("nll_loss", functional.nll_loss, OutputKind.LOG_PROBABILITIES, right=is_correct),
    NamedLoss("multi_margin_loss", functional.multi_margin_loss, OutputKind.SCORES, right=is_correct),
)
_BINARY_LOSSES = tuple(
    NamedLoss(name, _binary(function), outputs, TargetKind.SHARES_OF_ONE, _correct_above(threshold))
    for name, function, outputs, threshold in (
        ("binary_cross_entropy_with_logits", functional.binary_cross_entropy_with_logits, OutputKind.LOGITS, 0.0),
        ("binary_cross_entropy", functional.binary_cross_entropy, OutputKind.PROBABILITIES, 0.5),
        ("multilabel_soft_margin_loss", functional.multilabel_soft_margin_loss, OutputKind.LOGITS, 0.0),
    )
)
_SIGN_LOSS = NamedLoss("soft_margin_loss", _soft_margin, OutputKind.LOGITS, TargetKind.SIGNS, _correct_above(0.0))
_VALUE_LOSSES = (
    *(
        NamedLoss(function.__name__, function, OutputKind.VALUES)
        for function in (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss)
    ),
    *_BINARY_LOSSES,
    _SIGN_LOSS,
    NamedLoss("poisson_nll_loss", functional.poisson_nll_loss, OutputKind.LOG_RATES, TargetKind.COUNTS, link=torch.exp),
    NamedLoss("kl_div", _kl_div, OutputKind.LOG_PROBABILITIES, TargetKind.DISTRIBUTIONS, is_correct),
)
_BY_NAME = {loss.name: loss for loss in (*_VALUE_LOSSES, *_CLASS_LOSSES)}
# The equivalent loss modules, which a user may pass.
_MODULE_NAMES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MultiMarginLoss: "multi_margin_loss",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    nn.BCELoss: "binary_cross_entropy",
    nn.MultiLabelSoftMarginLoss: "multilabel_soft_margin_loss",
    nn.SoftMarginLoss: "soft_margin_loss",
    nn.PoissonNLLLoss: "poisson_nll_loss",
    nn.KLDivLoss: "kl_div",
    nn.MSELoss: "mse_loss",
    nn.L1Loss: "l1_loss",
    nn.SmoothL1Loss: "smooth_l1_loss",
    nn.HuberLoss: "huber_loss",
}


def losses_for(data: DataSet) -> dict[str, NamedLoss]:
    """The losses that fit the targets of ``data``, by name; the first is the default."""
    if data.classes is None:
        fitting = [*_VALUE_LOSSES, *([_SOFT_CROSS_ENTROPY] if _are_distributions(data) else [])]
    else:
        fitting = [loss for loss in _CLASS_LOSSES if loss.name != "multi_margin_loss" or not data.target_shape]
        if data.classes <= 2:
            fitting += [*_BINARY_LOSSES, _SIGN_LOSS]
    return {loss.name: loss for loss in fitting}


def is_loss_name(name: str) -> bool:
    """Whether some targets have a loss of this name."""
    return name in _BY_NAME


def is_binary_loss(name: str) -> bool:
    """Whether a network needs one output per target for this loss, instead of one per class."""
    return any(loss.name == name for loss in (*_BINARY_LOSSES, _SIGN_LOSS))


def find_named_loss(function: object) -> NamedLoss | None:
    """The loss of ``torch.nn.functional`` that a user passed as a function or a module; None if it is not one of those."""
    named = _MODULE_NAMES.get(type(function)) if isinstance(function, nn.Module) else getattr(function, "__name__", "")
    is_torch_loss = isinstance(function, nn.Module) or getattr(functional, str(named), None) is function
    return _BY_NAME.get(str(named)) if is_torch_loss else None


def targets_fit(targets: Tensor, kind: TargetKind) -> bool:
    """Whether floating ``targets`` are of ``kind``."""
    match kind:
        case TargetKind.SHARES_OF_ONE:
            return bool(((targets >= 0) & (targets <= 1)).all())
        case TargetKind.SIGNS:
            return bool((targets.abs() == 1).all())
        case TargetKind.COUNTS:
            return bool((targets >= 0).all())
        case TargetKind.DISTRIBUTIONS:
            return bool((targets >= 0).all()) and bool((targets.sum(1) - 1).abs().max() < 1e-3)
        case TargetKind.ANY:
            return True


def _are_distributions(data: DataSet) -> bool:
    if not data.target_shape or data.target_shape[0] < 2:
        return False
    return targets_fit(data.train.head(256)[1], TargetKind.DISTRIBUTIONS)
