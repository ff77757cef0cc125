"""An ONNX operator that onnx's reference evaluator supports only for one group of channels. Needs onnx."""

from __future__ import annotations

from typing import Any

import torch
from onnx.reference.op_run import OpRun
from torch import Tensor
from torch.nn import functional


class ConvTranspose(OpRun):  # the evaluator finds it by its name, that of the operator
    """A transposed convolution with any number of groups, as ONNX defines it."""

    op_domain = ""

    def _run(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        auto_pad: str | None = None,
        dilations: Any = None,
        group: int | None = None,
        kernel_shape: Any = None,
        output_padding: Any = None,
        output_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Any]:
        if auto_pad not in (None, "NOTSET") or output_shape is not None:
            raise NotImplementedError("ConvTranspose with auto_pad or output_shape")
        dimensions = x.ndim - 2
        ones, zeros = [1] * dimensions, [0] * dimensions
        whole = _WHOLE[dimensions](
            torch.from_numpy(x),
            torch.from_numpy(weight),
            stride=list(strides or ones),
            groups=group or 1,
            dilation=list(dilations or ones),
        )
        begins, ends = (pads or zeros * 2)[:dimensions], (pads or zeros * 2)[dimensions:]
        # The number of values cut off on each side; negative if values are added.
        cuts = [(begin, end - more) for begin, end, more in zip(begins, ends, output_padding or zeros, strict=True)]
        output: Tensor = functional.pad(whole, [-cut for pair in reversed(cuts) for cut in pair])
        if bias is not None:
            output = output + torch.from_numpy(bias).view(1, -1, *ones)
        return (output.numpy(),)


_WHOLE: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
