"""Max pooling in windows of 2×2, faster than PyTorch's on a CPU, with the same results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnkit.kernels.tracing import is_plain_eager

# Size, stride, padding, dilation, and whether a window may reach over the edge.
_WINDOWS: tuple[Any, ...] = ([2, 2], [2, 2], [0, 0], [1, 1], False)
# The largest number of planes that are treated as channels of one image: with more, copying them takes longer.
_MAX_CHANNELS = 64


class MaxPool2d(nn.MaxPool2d):
    """``torch.nn.MaxPool2d``, faster in windows of 2×2.

    PyTorch's loop over contiguous images compares values one by one: a third of a training step of a small CNN. Its loop for
    channels last is vectorised over channels; for it, planes of several images are treated as channels of one. Without
    gradients the position of the maximum is not needed, and rows, then columns are compared directly.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The maximum of each window."""
        return self._pool(input, relu=False) if self.is_fast(input) else super().forward(input)

    def pool_relu(self, input: Tensor) -> Tensor:
        """``pool(relu(input))``, with ReLU on the maxima only; ``is_fast`` has to be true.

        Values and gradients are the same: a maximum that ReLU sets to 0 has no gradient, whichever position it came from.
        """
        return self._pool(input, relu=True)

    def is_fast(self, input: Tensor) -> bool:
        """Whether ``input`` is pooled here, and not by PyTorch's function."""
        options = (self.kernel_size, self.stride, self.padding, self.dilation, self.return_indices, self.ceil_mode)
        is_plain = options == (2, 2, 0, 1, False, False) and is_plain_eager(input)
        return is_plain and _is_contiguous_image(input)

    def _pool(self, input: Tensor, *, relu: bool) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad:
            pooled: Tensor = _MaxPool.apply(input, relu)  # type: ignore[no-untyped-call]
            return pooled
        height, width = (size // 2 * 2 for size in input.shape[2:])
        rows = torch.maximum(input[:, :, 0:height:2], input[:, :, 1:height:2])
        pooled = torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
        return pooled.relu_() if relu else pooled


def _is_contiguous_image(x: Tensor) -> bool:
    return x.dim() == 4 and x.device.type == "cpu" and x.is_contiguous() and min(x.shape) > 1


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, relu: bool) -> Tensor:
        images, channels, height, width = ctx.shape = x.shape
        planes = images * channels
        together = next(size for size in range(min(planes, _MAX_CHANNELS), 0, -1) if planes % size == 0)
        grouped = x.view(-1, together, height, width).contiguous(memory_format=torch.channels_last)
        results: tuple[Tensor, Tensor] = torch.ops.aten.max_pool2d_with_indices(grouped, *_WINDOWS)
        pooled, indices = (one.contiguous().view(images, channels, *one.shape[2:]) for one in results)
        ctx.save_for_backward(indices, *([pooled.relu_()] if relu else []))
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        indices, *rectified = ctx.saved_tensors
        (gradient,) = gradients
        for pooled in rectified:
            gradient = torch.ops.aten.threshold_backward(gradient, pooled, 0)
        like_input = gradient.new_empty(ctx.shape)  # only its shape is read
        return torch.ops.aten.max_pool2d_with_indices_backward(gradient, like_input, *_WINDOWS, indices), None
