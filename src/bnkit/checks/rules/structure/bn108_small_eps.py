"""BN108."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.model.inspect.batches import dtype_of
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike


class SmallEps(Rule):
    """A batch norm whose eps does not cover the rounding errors of its input."""

    code = "BN108"
    name = "small-eps"
    severity = Severity.WARNING

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if norm.is_frozen:  # its variance may already include an eps
                continue
            dtype = _dtype(norm, dtype_of(context.model))
            limit = rounding_variance(dtype)
            if norm.eps < limit:
                yield self.finding(
                    site.name,
                    f"its eps of {norm.eps:g} is below the variance of rounding errors in {str(dtype).removeprefix('torch.')}, "
                    f"{limit:.1g}: a constant channel becomes noise",
                    remedy="set eps=1e-5, the usual value",
                    measured=norm.eps,
                    limit=limit,
                )


def rounding_variance(dtype: torch.dtype) -> float:
    """The variance of the rounding errors of values near 1: uniform over half the gap to either neighbour.

    Examples:
        >>> f"{rounding_variance(torch.float32):.1e}, {rounding_variance(torch.bfloat16):.1e}"
        '1.2e-15, 5.1e-06'
    """
    return (torch.finfo(dtype).eps / 2) ** 2 / 3


def _dtype(norm: BatchNormLike, otherwise: torch.dtype) -> torch.dtype:
    # The input has the dtype of the neighbouring layers; a batch norm in float32 may take half precision.
    own = next((tensor.dtype for tensor in (norm.weight, norm.mean) if tensor is not None), otherwise)
    return min(own, otherwise, key=lambda dtype: -torch.finfo(dtype).eps)
