"""Convert targets to class numbers or floating values, and suggest fixes for targets that are neither."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from bnkit.errors import DataError

# Up to this label, bincount is faster than sorting.
_COUNTED = 2**16
_LABELS_SHOWN = 6
# "Not annotated" in masks, and the default ignore_index of cross_entropy.
_IGNORED_IN_MASKS, _IGNORED = 255, -100
_YES_OR_NO = "binary_cross_entropy_with_logits"


def canonical_targets(targets: Tensor, input_dimensions: int) -> Tensor:
    """Class numbers as int64; floating targets as float32, (N,) as (N, 1).

    A channel dimension of class numbers is removed: (N, 1) becomes (N,), and with images (N, C, H, W) masks (N, 1, H, W)
    become (N, H, W).

    Args:
        targets: Bool, integer or floating, from ``to_strided``.
        input_dimensions: The number of dimensions of their inputs, N included.

    Examples:
        >>> canonical_targets(torch.tensor([0.5, 2.0], dtype=torch.float64), 2).shape
        torch.Size([2, 1])
        >>> canonical_targets(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 4).shape
        torch.Size([4, 8, 8])
    """
    if targets.is_floating_point():
        values = targets.float()
        return values[:, None] if values.dim() == 1 else values
    has_channel = targets.dim() == 2 or targets.dim() == input_dimensions
    if has_channel and targets.shape[1:2] == (1,):
        targets = targets[:, 0]
    return targets.long()


def unique_labels(targets: Tensor) -> set[int]:
    """The distinct class numbers in ``targets``, int64."""
    if targets.numel() == 0:
        return set()
    if int(targets.min()) >= 0 and int(targets.max()) < _COUNTED:
        return set(targets.flatten().bincount().nonzero().flatten().tolist())
    return set(torch.unique(targets).tolist())


def check_labels(labels: Collection[int], name: str) -> None:
    """Raise if labels are not class numbers.

    Args:
        labels: The distinct labels.
        name: The name of the split in messages.

    Raises:
        DataError: If some are negative.
    """
    if min(labels) >= 0:
        return
    if set(labels) == {-1, 1}:
        remedy = "(targets + 1) // 2 makes them 0 and 1"
    elif min(labels) == _IGNORED or sum(label < 0 for label in labels) == 1:
        remedy = (
            f"leave out what is labelled {min(labels)}, or give it a new class number, {max(*labels, -1) + 1}, and "
            "a loss with that ignore_index"
        )
    else:
        remedy = "targets - targets.min() makes them begin at 0"
    raise DataError(
        f"{name} has {describe_labels(labels)}, negative class numbers; expected 0 to classes - 1: {remedy}"
    )


def describe_labels(labels: Collection[int]) -> str:
    """The labels in a few words.

    Examples:
        >>> describe_labels({1, 2, 3, 4}), describe_labels({0, 255})
        ('the labels 1 to 4', 'the labels 0 and 255')
    """
    ordered = sorted(labels)
    if len(ordered) == 1:
        return f"the label {ordered[0]}"
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"the labels {ordered[0]} to {ordered[-1]}"
    if len(ordered) > _LABELS_SHOWN:
        shown = ", ".join(map(str, ordered[: _LABELS_SHOWN - 1]))
        return f"the labels {shown}, … {ordered[-1]} ({len(ordered)} different ones)"
    return f"the labels {', '.join(map(str, ordered[:-1]))} and {ordered[-1]}"


def suggest_fix(labels: Collection[int] | None, targets: Tensor, outputs: tuple[int, ...]) -> str:
    """Advice on targets that a network's outputs do not fit, to end a message with; may be empty.

    Args:
        labels: All class numbers of the data; None if the targets are floating.
        targets: The targets of some examples.
        outputs: The shape of the outputs for some examples.
    """
    scores = outputs[1] if len(outputs) > 1 else 1
    if labels is None:
        return _remedy_of_values(targets, outputs, scores)
    if targets.dim() == 2 and len(outputs) == 2 and set(labels) <= {0, 1}:
        if bool((targets.sum(1) == 1).all()):
            return f"the targets look like one-hot rows of {targets.shape[1]} labels: targets.argmax(1) makes them class numbers"
        return f"for several labels an example give targets.float(), and the loss {_YES_OR_NO}"
    if scores > max(labels):
        return ""
    return f"the targets have {describe_labels(labels)}: {_renumbered(labels, scores)}"


def _remedy_of_values(targets: Tensor, outputs: tuple[int, ...], scores: int) -> str:
    if len(outputs) == 1 and targets.shape[1:] == (1,):
        return "a network that ends in nn.Linear(..., 1), without squeeze, returns that"
    if scores > 1 and targets.shape[1] == 1 and bool((targets == targets.round()).all()):
        occurring = describe_labels(set(targets.flatten().long().tolist()))
        return f"the targets are floating whole numbers, as {occurring}: targets[:, 0].long() makes them class numbers"
    return ""


def _renumbered(labels: Collection[int], scores: int) -> str:
    lowest, highest = min(labels), max(labels)
    if scores == 1 and len(labels) == 2:
        zero_or_one = "targets" if highest == 1 else f"(targets == {highest})"
        return f"for one output give {zero_or_one}.float() in its shape, and the loss {_YES_OR_NO}"
    if set(labels) == {0, _IGNORED_IN_MASKS}:
        return "targets // 255 makes them 0 and 1"
    if highest == _IGNORED_IN_MASKS and max(set(labels) - {highest}, default=scores) < scores:
        return (
            f"if 255 means not annotated, give it the class number {scores} and the network {scores + 1} outputs, with a "
            f"loss whose ignore_index is {scores}"
        )
    if lowest > 0 and highest - lowest < scores:
        return f"targets - {lowest} makes them begin at 0"
    if len(labels) <= scores:
        return "torch.unique(targets, return_inverse=True)[1] numbers them from 0 without gaps"
    return f"the network needs {highest + 1} outputs; for values to predict give floating targets"
