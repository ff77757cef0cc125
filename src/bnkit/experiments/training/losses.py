"""The losses of ``torch.nn.functional`` that fit a data set's targets, and what each of them expects."""

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


class Outputs(Enum):
    """What a loss takes the outputs of a network for."""

    SCORES = "a score for each class, of any size"
    LOGITS = "scores of any size, above 0 for yes"
    LOG_PROBABILITIES = "logarithms of probabilities, as log_softmax gives them"
    PROBABILITIES = "probabilities, from 0 to 1, as a sigmoid gives them"
    LOG_RATES = "logarithms of the rates that are expected"
    VALUES = "what is to be predicted"


class Targets(Enum):
    """Which targets a loss is made for."""

    ANY = "of any size"
    SHARES_OF_ONE = "from 0 to 1"
    SIGNS = "-1 or 1"
    DISTRIBUTIONS = "shares that are not negative and sum to 1 for each example"
    COUNTS = "not negative"


@dataclass(frozen=True)
class NamedLoss:
    """A loss of ``torch.nn.functional``.

    Attributes:
        name: Its name there.
        function: Of outputs and targets, with the targets that a data set has.
        outputs, targets: What it expects.
        right: Which answers are right, where there are answers.
        link: What makes values, as the targets are, of the outputs; None where the outputs are those.
    """

    name: str
    function: Loss
    outputs: Outputs
    targets: Targets = Targets.ANY
    right: Callable[[Tensor, Tensor], Tensor] | None = None
    link: Callable[[Tensor], Tensor] | None = None


def _as(targets: Tensor, outputs: Tensor) -> Tensor:
    """Class numbers 0 and 1 as numbers of the outputs' type, (N,) as (N, 1) where the outputs are."""
    if not targets.is_floating_point():
        targets = targets.to(outputs.dtype)
    return targets[:, None] if targets.dim() == 1 and outputs.dim() == 2 else targets


def _yes_or_no(loss: Loss) -> Loss:
    return lambda outputs, targets: loss(outputs, _as(targets, outputs))


def _above(threshold: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether an output is above ``threshold`` where the target is above one half, and only there."""

    def right(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs > threshold) == (_as(targets, outputs) > 0.5)

    return right


def _soft_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    signs = _as(targets, outputs)
    return functional.soft_margin_loss(outputs, signs if targets.is_floating_point() else 2 * signs - 1)


def _kl_div(outputs: Tensor, targets: Tensor) -> Tensor:
    # "mean" divides by the number of classes too, which is not the divergence; torch warns of it.
    return functional.kl_div(outputs, targets, reduction="batchmean")


_CROSS_ENTROPY = NamedLoss("cross_entropy", functional.cross_entropy, Outputs.SCORES, right=is_correct)
_SOFT_CROSS_ENTROPY = NamedLoss(
    "cross_entropy", functional.cross_entropy, Outputs.SCORES, Targets.DISTRIBUTIONS, is_correct
)
_OF_CLASSES = (
    _CROSS_ENTROPY,
    NamedLoss("nll_loss", functional.nll_loss, Outputs.LOG_PROBABILITIES, right=is_correct),
    NamedLoss("multi_margin_loss", functional.multi_margin_loss, Outputs.SCORES, right=is_correct),
)
_OF_YES_OR_NO = tuple(
    NamedLoss(name, _yes_or_no(function), outputs, Targets.SHARES_OF_ONE, _above(threshold))
    for name, function, outputs, threshold in (
        ("binary_cross_entropy_with_logits", functional.binary_cross_entropy_with_logits, Outputs.LOGITS, 0.0),
        ("binary_cross_entropy", functional.binary_cross_entropy, Outputs.PROBABILITIES, 0.5),
        ("multilabel_soft_margin_loss", functional.multilabel_soft_margin_loss, Outputs.LOGITS, 0.0),
    )
)
_OF_SIGNS = NamedLoss("soft_margin_loss", _soft_margin, Outputs.LOGITS, Targets.SIGNS, _above(0.0))
_OF_VALUES = (
    *(
        NamedLoss(function.__name__, function, Outputs.VALUES)
        for function in (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss)
    ),
    *_OF_YES_OR_NO,
    _OF_SIGNS,
    NamedLoss("poisson_nll_loss", functional.poisson_nll_loss, Outputs.LOG_RATES, Targets.COUNTS, link=torch.exp),
    NamedLoss("kl_div", _kl_div, Outputs.LOG_PROBABILITIES, Targets.DISTRIBUTIONS, is_correct),
)
_ALL = {loss.name: loss for loss in (*_OF_VALUES, *_OF_CLASSES)}
# The same as modules, which a user may give in place of a name.
_MODULES: dict[type[nn.Module], str] = {
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
    """The losses that fit the targets of ``data``, by name; the first is the usual one."""
    if data.classes is None:
        fitting = [*_OF_VALUES, *([_SOFT_CROSS_ENTROPY] if _are_distributions(data) else [])]
    else:
        fitting = [loss for loss in _OF_CLASSES if loss.name != "multi_margin_loss" or not data.target_shape]
        if data.classes <= 2:
            fitting += [*_OF_YES_OR_NO, _OF_SIGNS]
    return {loss.name: loss for loss in fitting}


def is_loss_name(name: str) -> bool:
    """Whether there is such a loss, for whatever targets."""
    return name in _ALL


def is_binary_loss(name: str) -> bool:
    """Whether a network has an output for each target under that loss, in place of one for each class."""
    return any(loss.name == name for loss in (*_OF_YES_OR_NO, _OF_SIGNS))


def find_named_loss(function: object) -> NamedLoss | None:
    """The loss of ``torch.nn.functional`` that a user gave as a function or a module."""
    named = _MODULES.get(type(function)) if isinstance(function, nn.Module) else getattr(function, "__name__", "")
    is_torchs = isinstance(function, nn.Module) or getattr(functional, str(named), None) is function
    return _ALL.get(str(named)) if is_torchs else None


def targets_fit(targets: Tensor, kind: Targets) -> bool:
    """Whether floating ``targets`` are what a loss is made for."""
    match kind:
        case Targets.SHARES_OF_ONE:
            return bool(((targets >= 0) & (targets <= 1)).all())
        case Targets.SIGNS:
            return bool((targets.abs() == 1).all())
        case Targets.COUNTS:
            return bool((targets >= 0).all())
        case Targets.DISTRIBUTIONS:
            return bool((targets >= 0).all()) and bool((targets.sum(1) - 1).abs().max() < 1e-3)
        case Targets.ANY:
            return True


def _are_distributions(data: DataSet) -> bool:
    if not data.target_shape or data.target_shape[0] < 2:
        return False
    return targets_fit(data.train.head(256)[1], Targets.DISTRIBUTIONS)
