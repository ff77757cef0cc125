"""Find the channel dimension of a tensor after it was reshaped."""

from __future__ import annotations

import math

from bnkit.model.inspect.trace import Operation


def axis_after(operation: Operation, axis: int) -> int | None:
    """The output dimension of a reshaping step that was ``axis`` of its input; None if it is no longer one dimension.

    Args:
        operation: A step of the kind "reshape".
        axis: A dimension of its first input.
    """
    if not operation.shapes:
        return None
    before, after = operation.shapes[0], operation.shape
    match operation.name.rstrip("_"), operation.arguments:
        case "t", _:
            order = list(range(len(before)))[::-1]
        case "transpose", (_, int(first), int(second), *_):
            order = list(range(len(before)))
            order[first], order[second] = order[second], order[first]
        case "permute", (_, dimensions, *_):
            order = [int(dimension) % len(before) for dimension in dimensions]
        case (("movedim" | "expand"), _) if before != after:
            return None
        case _:
            return _by_place(before, after, axis)
    return order.index(axis)


def _by_place(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The same for ``view``: find the dimension of the same size after the same number of values."""
    if before == after:
        return axis
    for position, size in enumerate(after):
        if size == before[axis] and math.prod(after[:position]) == math.prod(before[:axis]):
            return position
    return None
