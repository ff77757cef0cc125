"""The layers: parameters, buffers, modes and state_dict. The arithmetic is in ``bnkit.kernels``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bnkit.arguments import check_int, check_number
from bnkit.errors import SettingsError
from bnkit.kernels import check_activation, check_kernel
from bnkit.kernels.contract import BatchNormArgs
from bnkit.nn import running_statistics
from bnkit.nn.dispatch import batch_stats_forward, running_stats_forward, training_step
from bnkit.nn.ghost import check_size, forward_in_parts
from bnkit.nn.input_checks import check_both, check_input, check_moving
from bnkit.nn.masks import as_wide_as, count_of
from bnkit.nn.sync_collectives import group_for

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the three layers share: everything but the check of the input's dimensions."""

    num_batches_skipped: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | nn.Module | None = None,
        sync: bool = False,
        process_group: ProcessGroup | None = None,
        virtual_batch_size: int | None = None,
        skip_nonfinite: bool = False,
        kernel: str = "auto",
    ) -> None:
        check_int("num_features", num_features, minimum=0)
        check_number("eps", eps, "a number, above 0 in training")
        if momentum is not None:
            check_number("momentum", momentum, "a number, or None for the cumulative average")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if affine and not bias:  # older releases of torch have no such argument
            self.register_parameter("bias", None)
        is_own = activation is None or isinstance(activation, nn.Module)
        self.activation = activation if is_own else check_activation(activation)
        if process_group is not None and not sync:
            raise SettingsError(f"{self._called()} got a process_group without sync=True; expected both, or neither")
        if virtual_batch_size is not None:
            check_size(virtual_batch_size, self._called())
            if sync:
                raise SettingsError(
                    f"{self._called()} got sync=True and virtual_batch_size={virtual_batch_size}; expected one of them: "
                    "statistics over all processes, or over a part of the batch of one"
                )
        self.sync = sync
        self.process_group = process_group
        self.virtual_batch_size = virtual_batch_size
        self.skip_nonfinite = skip_nonfinite
        self.kernel = check_kernel(kernel)
        # Not part of the state_dict: weights move to and from torch.nn with strict=True.
        counter = torch.zeros((), dtype=torch.int64, device=device) if skip_nonfinite else None
        self.register_buffer("num_batches_skipped", counter, persistent=False)

    @property
    def gamma(self) -> Tensor:
        """The scale, (C,): another name for ``weight``."""
        return self.weight

    @property
    def beta(self) -> Tensor:
        """The shift, (C,): another name for ``bias``."""
        return self.bias

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1, and the counters to 0."""
        super().reset_running_stats()
        skipped = self._buffers.get("num_batches_skipped")  # called by the constructor too, before it is there
        if skipped is not None:
            skipped.zero_()

    def forward(self, input: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``activation(batch_norm(input) + residual)``.

        Args:
            input: (N, C) or (N, C, *), of float32, float64, float16 or bfloat16, whatever the layer's own dtype.
            residual: A tensor of the input's shape, or None.
            mask: bool, broadcastable to (N, 1, *spatial), or None. What is False counts in no statistic; it is scaled and
                shifted like the others. All False is an empty batch: the running statistics normalise, and stay.

        Returns:
            A tensor of the input's shape and dtype.

        Raises:
            TooFewValuesError: Training with one value per channel; with ``sync``, in all processes together.
            SettingsError: An input that is not a dense tensor of floats, a shape that does not fit, a mask that is not bool,
                a running mean without a running variance.
            KernelError: ``sync`` where it cannot be: with a ``kernel`` that cannot share statistics, under torch.func.
            ModelError: ``sync``, and another process of the group ended or did not come.
        """
        output = self._normalise(input, residual, mask, self._fused_activation())
        return self.activation(output) if isinstance(self.activation, nn.Module) else output

    def _normalise(self, input: Tensor, residual: Tensor | None, mask: Tensor | None, activation: str | None) -> Tensor:
        """``activation(batch_norm(input) + residual)``, the activation by its name."""
        check_input(input, self._called)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        if input.shape[1] != self.num_features and input.shape[1] != (expected := self._channels()):
            raise SettingsError(
                f"{self._called()} got an input of shape {tuple(input.shape)}, {input.shape[1]} channels; expected {expected}"
            )
        if mask is not None:
            mask = as_wide_as(input, mask, self._called())
        mean, var, _ = (None, None, None) if self.training else self._statistics()
        if mean is not None and var is not None:
            return running_stats_forward(
                self._args(input, (mean, var, None), residual, None, activation, training=False),
                self.kernel,
                self._called,
            )
        if self.virtual_batch_size is not None and self.training:
            by_batch = partial(self._batch_stats_forward, activation=activation)
            return forward_in_parts(input, residual, mask, self.virtual_batch_size, by_batch)
        return self._batch_stats_forward(input, residual, mask, activation)

    def _batch_stats_forward(
        self, input: Tensor, residual: Tensor | None, mask: Tensor | None, activation: str | None
    ) -> Tensor:
        """The output by the batch's statistics; in training, the buffers follow them."""
        moves = self.training and self.track_running_stats and not running_statistics.is_recomputation()
        mean, var, tracked = self._statistics()
        args = self._args(input, (mean, var, tracked), residual, mask, activation, training=True)
        if (
            moves
            and mask is None
            and self.momentum is not None
            and not (self.sync or self.skip_nonfinite)
            and mean is not None
            and var is not None
            and tracked is not None
        ):
            output = training_step(args, self.kernel, self._called)
            if output is not None:
                return output
        if moves:
            check_moving(mean, var, self._called)
        elif not self.training:
            check_both(mean, var, self._called)
        group = group_for(self.process_group, self._called()) if self.sync and self.training else None
        output, statistics = batch_stats_forward(args, self.kernel, self._called, group)
        if moves:
            self._track(statistics, mean, var, tracked)
        return output

    def _statistics(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The running mean and variance, and the counter; None for what is missing.

        They are looked up where they are kept: by their names, Python would ask for each of them twice.
        """
        buffers = self._buffers
        if "running_mean" in buffers and "running_var" in buffers:
            mean, var = buffers["running_mean"], buffers["running_var"]
        else:  # parameters, or attributes
            mean, var = self.running_mean, self.running_var
        return mean, var, buffers.get("num_batches_tracked")

    def _fused_activation(self) -> str | None:
        """The activation that a kernel applies; one that is a module follows it."""
        return self.activation if isinstance(self.activation, str) else None

    def _args(
        self,
        input: Tensor,
        statistics: tuple[Tensor | None, Tensor | None, Tensor | None],
        residual: Tensor | None,
        mask: Tensor | None,
        activation: str | None,
        *,
        training: bool,
    ) -> BatchNormArgs:
        """What the output is computed from: the batch's statistics, or the running ones."""
        mean, var, tracked = statistics
        own = self._parameters
        if "weight" in own and "bias" in own:
            weight, bias = own["weight"], own["bias"]
        else:  # parametrised
            weight, bias = self.weight, self.bias
        momentum = self.momentum or 0.0  # None, the cumulative average, is seen to by `_track`
        count = 1 if not training else input.numel() // max(input.shape[1], 1) if mask is None else count_of(mask)
        # As BatchNormArgs(...), in half of the time: that calls a function in Python.
        return tuple.__new__(
            BatchNormArgs,
            (input, mean, var, weight, bias, training, momentum, self.eps, activation, residual, mask, count, tracked),
        )

    def _track(
        self,
        statistics: tuple[Tensor, Tensor] | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        tracked: Tensor | None,
    ) -> None:
        """Count the batch, and move the running statistics if it had any (an empty batch has none)."""
        if tracked is not None:
            tracked.add_(1)
        if statistics is None or running_mean is None or running_var is None:
            return
        momentum: float | Tensor
        if self.momentum is not None:
            momentum = self.momentum
        elif tracked is None:  # nothing to average over: as in PyTorch, the statistics stay
            momentum = 0.0
        else:  # the cumulative average: a tensor, so that nothing waits for the device
            if self.num_batches_skipped is not None:
                tracked = (tracked - self.num_batches_skipped).clamp(min=1)
            momentum = 1.0 / tracked.to(torch.promote_types(running_mean.dtype, torch.float32))
        running_statistics.move(running_mean, running_var, *statistics, momentum, self.num_batches_skipped)

    def _channels(self) -> int:
        """How many channels there are by the tensors: pruning cuts these, and leaves ``num_features`` as it was."""
        for tensor in (self.running_mean, self.running_var, self.weight, self.bias):
            if tensor is not None:
                return tensor.numel()
        return self.num_features

    def _called(self) -> str:
        """What errors call this layer."""
        return f"{type(self).__name__}(num_features={self.num_features})"

    def __getstate__(self) -> dict[str, Any]:
        # A process group is a set of open connections of this process: no copy can own it, and no file hold it.
        return {**self.__dict__, "process_group": None}

    def extra_repr(self) -> str:
        """The arguments, those of ``torch.nn`` first, ours where they are not the default."""
        ours: dict[str, Any] = {}
        if isinstance(self.activation, str):
            ours["activation"] = self.activation
        if self.sync:
            ours["sync"] = True
        if self.virtual_batch_size is not None:
            ours["virtual_batch_size"] = self.virtual_batch_size
        if self.skip_nonfinite:
            ours["skip_nonfinite"] = True
        if self.kernel != "auto":
            ours["kernel"] = self.kernel
        theirs: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return ", ".join([theirs, *(f"{key}={value!r}" for key, value in ours.items())])


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L): ``torch.nn.BatchNorm1d``, an activation, a residual, a mask, a choice of kernel.

    Each channel is normalised by its mean and variance over the batch and all positions, then scaled by ``gamma``
    (``weight``) and shifted by ``beta`` (``bias``)::

        y = activation((x - mean) / sqrt(variance + eps) * gamma + beta + residual)

    In training the batch's own statistics are used, the variance biased (divided by n), and the running buffers follow
    them, the variance unbiased (n - 1); in evaluation the running buffers are used. Ioffe & Szegedy (2015), Algorithms
    1 and 2. Numbers, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm1d``, of which this is a subclass.

    Args:
        num_features: C, the number of channels.
        eps: Added to the variance; above 0 in training.
        momentum: ``running = (1 - momentum) * running + momentum * batch``; None for the average over all batches.
        affine: Learn gamma and beta.
        track_running_stats: Keep running statistics; without, the batch's are used in evaluation too.
        device, dtype: Of the parameters and buffers.
        bias: With ``affine``, learn beta too.
        activation: "relu", "leaky_relu", "relu6", "sigmoid", "silu", "tanh", "gelu", or a module that is applied to the result.
        sync: In training, take the statistics over the batches of all processes of ``process_group``, on CPUs (gloo)
            and GPUs (nccl): output, gradients and running statistics are those of one process with the whole batch.
            The batches may differ in size and may be empty, but every process runs the layer, forward and backward.
            As everywhere, the gradients of ``weight`` and ``bias`` are those of the process's own samples;
            DistributedDataParallel averages them. Without ``torch.distributed`` set up, in a group of one process, and
            in evaluation, the layer is as without ``sync``.
        process_group: A group of ``torch.distributed`` that this process is in; None for the default one. It stays out
            of copies and pickles: these have None. Set the attribute where a copy is to use a group of its own.
        virtual_batch_size: In training, take so many examples at a time as a batch, the last one the rest: ghost batch
            normalization (Hoffer, Hubara & Soudry, 2017). Each is normalised by its own statistics, counts in
            ``num_batches_tracked``, and moves the running statistics, one after the other: as if they had come one by one.
        skip_nonfinite: A batch that holds inf or NaN leaves the running statistics alone. It counts in
            ``num_batches_tracked`` like every batch, and besides in ``num_batches_skipped`` (not in the ``state_dict``).
        kernel: "auto", "reference" (the equations, in plain PyTorch), "aten" (PyTorch's own), "numba" (compiled for this
            processor) or "triton" (for GPUs).

    Raises:
        SettingsError: An unknown activation or kernel, a process group without ``sync``, ``sync`` with virtual batches.

    Example:
        >>> import torch
        >>> layer = BatchNorm1d(2, activation="relu")
        >>> layer(torch.randn(4, 2, 5)).shape
        torch.Size([4, 2, 5])
    """


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch normalization of images, (N, C, H, W): ``torch.nn.BatchNorm2d``, and the extras of ``BatchNorm1d``.

    The arguments are those of ``BatchNorm1d``; a channel has N·H·W values, so that a batch of one works.

    Example:
        >>> import torch
        >>> layer = BatchNorm2d(2, activation="relu")
        >>> layer(torch.randn(4, 2, 5, 5)).shape
        torch.Size([4, 2, 5, 5])
    """


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch normalization of volumes, (N, C, D, H, W): ``torch.nn.BatchNorm3d``, and the extras of ``BatchNorm1d``.

    The arguments are those of ``BatchNorm1d``.

    Example:
        >>> import torch
        >>> layer = BatchNorm3d(2, activation="relu")
        >>> layer(torch.randn(4, 2, 3, 5, 5)).shape
        torch.Size([4, 2, 3, 5, 5])
    """
