"""The two passes of batch normalization over a tensor on the CPU: which compiled loop, with which arguments."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bnkit.errors import KernelError
from bnkit.kernels.activation import SLOPE_BY_RESULT
from bnkit.kernels.cpu.channels_last_loops import row_loop
from bnkit.kernels.cpu.contiguous_loops import plane_loop
from bnkit.kernels.cpu.layout import CACHE_LINE, layout_of
from bnkit.kernels.cpu.loop_call import FIRST_HALF, GIVEN_ONES, OWN, SECOND_HALF, LoopCall, loop_call_for, run
from bnkit.kernels.cpu.numba_compile import Variant
from bnkit.kernels.cpu.threads import available
from bnkit.kernels.kernel_interface import BatchNormArgs


def needs_output(args: BatchNormArgs) -> bool:
    """See ``fused.device_backend.Backend``."""
    return args.activation in SLOPE_BY_RESULT or args.has_activated_residual


def forward(args: BatchNormArgs, statistics: Tensor, float64_compute: bool) -> Tensor:
    """See ``fused.device_backend.Backend``. A mask requires a contiguous input."""
    x, mean, var, weight, bias, training, momentum, eps, activation, residual, mask, count, counter = args
    y = torch.empty_like(x)
    xa, ya, known = x.data_ptr(), y.data_ptr(), statistics.data_ptr()
    has_residual, masked, mode = residual is not None, mask is not None, OWN if training else GIVEN_ONES
    call = _loop_call("forward", x, ya, activation, has_residual, False, float64_compute, masked, mode)
    moving = moving_var = counted = 0
    if training and mean is not None and var is not None:
        moving, moving_var = mean.data_ptr(), var.data_ptr()
        counted = 0 if counter is None else counter.data_ptr()
    run(
        call.address, xa, residual.data_ptr() if residual is not None else xa, ya, xa, xa, xa,
        0 if weight is None else weight.data_ptr(), 0 if bias is None else bias.data_ptr(),
        known, 0, mask.data_ptr() if mask is not None else xa, count, eps, moving, moving_var, counted, momentum, 0,
    )  # fmt: skip
    return y


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each channel and its biased variance, (C,) float64; ``x`` is only read."""
    statistics = torch.empty(6, x.shape[1], dtype=torch.float64)
    xa, values = x.data_ptr(), x.numel() // x.shape[1]
    call = _loop_call("forward", x, xa, None, False, False, False, False, FIRST_HALF)
    run(call.address, xa, xa, xa, xa, xa, xa, 0, 0, statistics.data_ptr(), 0, xa, values, 0.0, 0, 0, 0, 0.0, 0)
    return statistics[0], statistics[1]


def backward_sums(gradient: Tensor, args: BatchNormArgs, output: Tensor | None, statistics: Tensor) -> Tensor:
    """The gradients of gamma and beta, (2, C) float64, as in ``backward``, without writing the other gradients.

    ``output``: needed for an activation after a residual; the other arguments are as for ``backward``.
    """
    x, has_residual = args.input, output is not None
    by_parameter = torch.empty(2, x.shape[1], dtype=torch.float64)
    xa = x.data_ptr()
    call = _loop_call("backward", x, xa, args.activation, has_residual, has_residual, False, False, FIRST_HALF)
    run(
        call.address, xa, xa, _address(output) or xa, gradient.data_ptr(), xa, xa, _address(args.weight), _address(args.bias),
        statistics.data_ptr(), by_parameter.data_ptr(), xa, 1, 0.0, 0, 0, 0, 0.0, 0,
    )  # fmt: skip
    return by_parameter


def backward_shares(
    gradient: Tensor, args: BatchNormArgs, output: Tensor | None, statistics: Tensor, through_statistics: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the input, and of the residual if ``output`` is given; other arguments as for ``backward_sums``.

    ``through_statistics``, (2, C) float64: the correction for the statistics, which is subtracted from the gradient of each
    value: the first row times (x - mean), and the second row.
    """
    x, has_residual = args.input, output is not None
    dx = torch.empty_like(x)
    dr = torch.empty_like(x) if has_residual else None
    xa, dxa = x.data_ptr(), dx.data_ptr()
    dra = _address(dr) or dxa
    call = _loop_call("backward", x, dxa | dra, args.activation, has_residual, has_residual, False, False, SECOND_HALF)
    run(
        call.address, xa, xa, _address(output) or xa, gradient.data_ptr(), dxa, dra, _address(args.weight), _address(args.bias),
        statistics.data_ptr(), through_statistics.data_ptr(), xa, 1, 0.0, 0, 0, 0, 0.0, 0,
    )  # fmt: skip
    return dx, dr


def backward(
    gradient: Tensor, args: BatchNormArgs, output: Tensor | None, statistics: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """See ``fused.device_backend.Backend``."""
    x, _, _, weight, bias, training, _, _, activation, residual, mask, count, _ = args
    dx = torch.empty_like(x)
    has_residual = residual is not None and activation is not None
    dr = torch.empty_like(x) if has_residual else None
    by_parameter = torch.empty(2, x.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    xa, dxa = x.data_ptr(), dx.data_ptr()
    dra = dxa if dr is None else dr.data_ptr()
    mode, masked = OWN if training else GIVEN_ONES, mask is not None
    call = _loop_call("backward", x, dxa | dra, activation, has_residual, output is not None, False, masked, mode)
    run(
        call.address, xa, xa, output.data_ptr() if output is not None else xa, gradient.data_ptr(), dxa, dra,
        0 if weight is None else weight.data_ptr(), 0 if bias is None else bias.data_ptr(), statistics.data_ptr(), 0,
        mask.data_ptr() if mask is not None else xa, count, 0.0, 0, 0, 0, 0.0, by_parameter.data_ptr(),
    )  # fmt: skip
    return dx, dr, by_parameter


def moments_of_planes(x: Tensor) -> Tensor:
    """The means of each example of a contiguous ``x``, of all, and the sums of squared deviations: (N, C, *) to (N + 2, C) float64."""
    statistics = torch.empty(x.shape[0] + 2, x.shape[1], dtype=torch.float64)
    xa, values = x.data_ptr(), x.numel() // x.shape[1]
    call = _loop_call("measure", x, xa, None, False, False, False, False, OWN)
    run(call.address, xa, xa, xa, xa, xa, xa, 0, 0, statistics.data_ptr(), 0, xa, values, 0.0, 0, 0, 0, 0.0, 0)
    return statistics


def _loop_call(
    direction: str,
    x: Tensor,
    written: int,
    activation: str | None,
    has_residual: bool,
    needs_output: bool,
    float64_compute: bool,
    masked: bool,
    mode: int,
) -> LoopCall:
    """The call for ``x``; it must stay alive while it is used.

    ``written``: the address of the output, or several output addresses combined with bitwise or.
    """
    return _cached_loop_call(
        direction, x.shape, x.dtype, x.is_contiguous(), available(), written % CACHE_LINE == 0,
        activation, has_residual, needs_output, float64_compute, masked, mode,
    )  # fmt: skip


# A network trains with a few shapes, which recur in every step: the layout of each shape is computed once.
@lru_cache(maxsize=4096)
def _cached_loop_call(
    direction: str,
    shape: torch.Size,
    dtype: torch.dtype,
    is_contiguous: bool,
    threads: int,
    is_aligned: bool,
    activation: str | None,
    has_residual: bool,
    needs_output: bool,
    float64_compute: bool,
    masked: bool,
    mode: int,
) -> LoopCall:
    as_planes = masked or direction == "measure"
    if as_planes and not is_contiguous:
        raise KernelError(
            f"the compiled loops got a tensor of shape {tuple(shape)} that is not contiguous, to be masked or measured by "
            "example; expected x.contiguous()"
        )
    is_contiguous = is_contiguous and (len(shape) > 2 or as_planes)
    layout = layout_of(tuple(shape), dtype, is_contiguous, threads, as_planes=as_planes)
    variant = Variant(
        layout.kind,
        activation,
        has_residual=has_residual,
        needs_output=needs_output,
        given_terms=mode == SECOND_HALF,
        nontemporal=layout.can_stream and is_aligned and mode != FIRST_HALF and direction != "measure",
        # float64 elements are computed in float64 anyway.
        float64_compute=(float64_compute or layout.is_small) and layout.kind != "float64",
        masked=masked,
    )
    return loop_call_for(
        _loops(direction, layout.strategy, variant, mode), threads=layout.threads, scratch=layout.scratch, cleared=layout.cleared,
        examples=layout.examples, channels=layout.channels, positions=layout.positions, mode=mode, ahead=layout.ahead,
        block=layout.block, depth=layout.depth, is_double=layout.kind == "float64",
    )  # fmt: skip


def _loops(direction: str, strategy: str, variant: Variant, mode: int) -> tuple[int, int, int]:
    """The addresses of the loops in order of execution: on all threads, on one thread, on all threads; 0 for none."""
    if strategy == "planes":
        return plane_loop(direction, variant), 0, 0
    if strategy == "blocks":
        return row_loop(direction, variant), 0, 0
    write = row_loop(f"{direction}_write", variant)
    if mode == SECOND_HALF or (direction == "forward" and mode == GIVEN_ONES):
        return write, 0, 0
    # Loops that write no tensor do not depend on the activation (forward) or the kind of store.
    unwritten = variant._replace(nontemporal=False)
    if direction == "forward":
        unwritten = unwritten._replace(activation=None, has_residual=False)
    sums = row_loop(f"{direction}_sums", unwritten)
    finalize = row_loop(f"{direction}_finalize", Variant(variant.kind, float64_compute=variant.float64_compute))
    return sums, finalize, 0 if mode == FIRST_HALF else write


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
