"""The layers, with their parameters, buffers, modes and state_dict. The arithmetic is in ``bnkit.kernels``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bnkit.argument_checks import check_int, check_number
from bnkit.errors import SettingsError
from bnkit.kernels import check_activation, check_kernel
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.nn import running_statistics
from bnkit.nn.ghost_batch_norm import check_size, forward_in_parts
from bnkit.nn.input_checks import check_both, check_input, check_moving
from bnkit.nn.layer_forward import batch_stats_forward, running_stats_forward, training_step
from bnkit.nn.masks import as_wide_as, count_of
from bnkit.nn.sync_collectives import group_for

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """The common base of the three layers, which only add the check of the input's dimensions."""

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
        skipped = self._buffers.get("num_batches_skipped")  # the constructor calls this before the buffer exists
        if skipped is not None:
            skipped.zero_()

    def forward(self, input: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``activation(batch_norm(input) + residual)``.

        Args:
            input: (N, C) or (N, C, *), of float32, float64, float16 or bfloat16, independent of the layer's dtype.
            residual: A tensor of the input's shape, or None.
            mask: bool, broadcastable to (N, 1, *spatial), or None. False positions do not count in the statistics, but
                are normalised like the others. All False is an empty batch: the running statistics are used and do not
                change.

        Returns:
            A tensor of the input's shape and dtype.

        Raises:
            TooFewValuesError: In training, there is one value per channel; with ``sync``, in all processes together.
            SettingsError: The input is not a dense tensor of floats, a shape does not fit, the mask is not bool, or
                only one of the running mean and variance exists.
            KernelError: ``sync`` is not possible: the ``kernel`` cannot share statistics, or torch.func transforms the
                call.
            ModelError: With ``sync``, another process of the group exited or did not reach the layer in time.
        """
        output = self._normalise(input, residual, mask, self._fused_activation())
        return self.activation(output) if isinstance(self.activation, nn.Module) else output

    def _normalise(self, input: Tensor, residual: Tensor | None, mask: Tensor | None, activation: str | None) -> Tensor:
        """``activation(batch_norm(input) + residual)``, with the activation given by name."""
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
        """The output by the batch's statistics; in training, also update the buffers."""
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
        """The running mean and variance, and the counter; None for missing ones.

        They are read from ``_buffers`` directly, because attribute access takes two lookups for each.
        """
        buffers = self._buffers
        if "running_mean" in buffers and "running_var" in buffers:
            mean, var = buffers["running_mean"], buffers["running_var"]
        else:  # they are parameters or attributes
            mean, var = self.running_mean, self.running_var
        return mean, var, buffers.get("num_batches_tracked")

    def _fused_activation(self) -> str | None:
        """The activation that a kernel applies; a module is applied after the kernel instead."""
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
        """The arguments for a kernel."""
        mean, var, tracked = statistics
        own = self._parameters
        if "weight" in own and "bias" in own:
            weight, bias = own["weight"], own["bias"]
        else:  # parametrised
            weight, bias = self.weight, self.bias
        momentum = self.momentum or 0.0  # `_track` handles None, the cumulative average
        count = 1 if not training else input.numel() // max(input.shape[1], 1) if mask is None else count_of(mask)
        # Like BatchNormArgs(...), in half the time, because that calls a Python function.
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
        """Count the batch, and update the running statistics unless the batch is empty."""
        if tracked is not None:
            tracked.add_(1)
        if statistics is None or running_mean is None or running_var is None:
            return
        momentum: float | Tensor
        if self.momentum is not None:
            momentum = self.momentum
        elif tracked is None:  # without a counter, the statistics do not change, as in PyTorch
            momentum = 0.0
        else:  # the cumulative average, as a tensor to avoid a device synchronisation
            if self.num_batches_skipped is not None:
                tracked = (tracked - self.num_batches_skipped).clamp(min=1)
            momentum = 1.0 / tracked.to(torch.promote_types(running_mean.dtype, torch.float32))
        running_statistics.move(running_mean, running_var, *statistics, momentum, self.num_batches_skipped)

    def _channels(self) -> int:
        """The number of channels of the tensors: pruning shrinks these, but does not update ``num_features``."""
        for tensor in (self.running_mean, self.running_var, self.weight, self.bias):
            if tensor is not None:
                return tensor.numel()
        return self.num_features

    def _called(self) -> str:
        """The name of this layer in error messages."""
        return f"{type(self).__name__}(num_features={self.num_features})"

    def __getstate__(self) -> dict[str, Any]:
        # A process group consists of open connections of this process, and cannot be copied or stored.
        return {**self.__dict__, "process_group": None}

    def extra_repr(self) -> str:
        """The arguments of ``torch.nn``, then bnkit's own that differ from their defaults."""
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
    """Batch normalization of (N, C) or (N, C, L): ``torch.nn.BatchNorm1d`` with activation, residual, mask and kernels.

    Each channel is normalised by its mean and variance over the batch and all positions, then scaled by ``gamma``
    (``weight``) and shifted by ``beta`` (``bias``)::

        y = activation((x - mean) / sqrt(variance + eps) * gamma + beta + residual)

    Training uses the batch's own statistics, with the biased variance (divided by n), and updates the running buffers
    with the unbiased variance (n - 1); evaluation uses the running buffers. Ioffe & Szegedy (2015), Algorithms 1 and 2.
    Outputs, buffers and ``state_dict`` are those of ``torch.nn.BatchNorm1d``, of which this is a subclass.

    Args:
        num_features: C, the number of channels.
        eps: Added to the variance; above 0 in training.
        momentum: ``running = (1 - momentum) * running + momentum * batch``; None for the cumulative average.
        affine: Learn gamma and beta.
        track_running_stats: Keep running statistics; if False, evaluation uses the batch's, too.
        device, dtype: The device and dtype of the parameters and buffers.
        bias: With ``affine``, learn beta too.
        activation: "relu", "leaky_relu", "relu6", "sigmoid", "silu", "tanh", "gelu", or a module that is applied to the result.
        sync: In training, compute the statistics over the batches of all processes of ``process_group``, on CPUs (gloo)
            and GPUs (nccl): output, gradients and running statistics are those of one process with the whole batch.
            The batches may differ in size and may be empty, but every process must run the layer, forward and backward.
            As usual, the gradients of ``weight`` and ``bias`` are those of the process's own samples;
            DistributedDataParallel averages them. If ``torch.distributed`` is not initialised, in a group of one
            process, and in evaluation, ``sync`` has no effect.
        process_group: A group of ``torch.distributed`` that includes this process; None for the default group. It is
            not copied or pickled: copies have None. Set the attribute to give a copy another group.
        virtual_batch_size: In training, split the batch into virtual batches of this size, the last one possibly
            smaller: ghost batch normalization (Hoffer, Hubara & Soudry, 2017). Each is normalised by its own
            statistics, counts in ``num_batches_tracked``, and updates the running statistics, as if they were separate batches.
        skip_nonfinite: A batch that contains inf or NaN does not update the running statistics. It counts in
            ``num_batches_tracked`` as usual, and also in ``num_batches_skipped`` (not in the ``state_dict``).
        kernel: "auto", "reference" (the equations, in plain PyTorch), "aten" (PyTorch's own), "numba" (compiled for this
            processor) or "triton" (for GPUs).

    Raises:
        SettingsError: The activation or kernel is unknown, a process group is given without ``sync``, or ``sync`` is
            combined with virtual batches.

    Examples:
        >>> import torch
        >>> layer = BatchNorm1d(2, activation="relu")
        >>> layer(torch.randn(4, 2, 5)).shape
        torch.Size([4, 2, 5])
    """


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch normalization of images, (N, C, H, W): ``torch.nn.BatchNorm2d`` with the extras of ``BatchNorm1d``.

    The arguments are those of ``BatchNorm1d``. A channel has N·H·W values, so a batch of one example works.

    Examples:
        >>> import torch
        >>> layer = BatchNorm2d(2, activation="relu")
        >>> layer(torch.randn(4, 2, 5, 5)).shape
        torch.Size([4, 2, 5, 5])
    """


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch normalization of volumes, (N, C, D, H, W): ``torch.nn.BatchNorm3d`` with the extras of ``BatchNorm1d``.

    The arguments are those of ``BatchNorm1d``.

    Examples:
        >>> import torch
        >>> layer = BatchNorm3d(2, activation="relu")
        >>> layer(torch.randn(4, 2, 3, 5, 5)).shape
        torch.Size([4, 2, 3, 5, 5])
    """
