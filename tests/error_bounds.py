"""How far a result may be from the exact one."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_within_error_bound(
    ours: Tensor, theirs: Tensor, exact: Tensor, what: str, largest_term: float = 0.0
) -> None:
    """Our error against float64 is at most twice PyTorch's own, plus one rounding step of the largest value.

    ``largest_term``: of the sums that the values are, where these may cancel.
    """
    exact = exact.to(torch.float64)
    if exact.numel() == 0:
        assert ours.shape == exact.shape, what
        return
    our_error = (ours.to(torch.float64) - exact).abs().max().item()
    their_error = (theirs.to(torch.float64) - exact).abs().max().item()
    step = torch.finfo(ours.dtype).eps * max(exact.abs().max().item(), largest_term)
    assert our_error <= 2 * their_error + step, f"{what}: off by {our_error:.3g}, PyTorch by {their_error:.3g}"
