"""Call a copy of a module to find out whether it is a batch norm, and with which eps and activation."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm

from bnkit.kernels.activation import FUNCTIONS
from bnkit.model.layers.frozen_mixin import Frozen
from bnkit.model.layers.put_mixin_before_class import take_out
from bnkit.model.preserve_state import RngState

# The batch in training: larger than usual virtual batches, so that a batch norm with virtual batches is detected.
_BATCH = 257
# For float64 inputs between -8 and 8, which some layers cast to float32. The two forms of GELU differ by 5e-4.
_TOLERANCE = 5e-5
_COMMON_EPS = (1e-5, 1e-3, 1e-6, 0.0)
# The dimensions of the layer, by the positions of the inputs to try.
_RANKS = {(2, 1): 2, (2,): 1, (): 1, (2, 1, 1): 3}


@dataclass(frozen=True)
class Behaviour:
    """The computation of a module that is a batch norm in evaluation mode.

    Attributes:
        eps: The number that it adds to the variance.
        activation: The known activation that it applies.
        child: The name of the child module that it applies instead of ``activation``.
        dimensions: 1, 2 or 3, as in ``BatchNorm2d``; None if it takes inputs of any rank. For a subclass of PyTorch's
            layers, the first rank that it accepts.
        is_frozen: Whether it computes the same in training, without updating its statistics.
        difference: How its training differs from that of a batch norm; None if it does not, or if it is frozen.
    """

    eps: float
    activation: str | None
    child: str | None
    dimensions: int | None
    is_frozen: bool
    difference: str | None


def behaviour(module: nn.Module, *, is_synchronised: bool = False) -> Behaviour | str:
    """The behaviour of a copy of ``module``; if it is not a batch norm, the reason as text.

    The copy is float64, and gets statistics, gamma and beta that distinguish similar formulas. ``module`` is not
    changed, its hooks are not called, and the random state is restored.

    Args:
        module: A module that may have ``running_mean``, ``running_var``, ``weight`` and ``bias``.
        is_synchronised: Whether training it would wait for other processes; then training is not tried.
    """
    state = RngState()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual shapes, which the user did not choose
            has_rank = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
            return _behaviour(_Probe(module), has_rank=has_rank, is_synchronised=is_synchronised)
    except _NotBatchNormError as reason:
        return str(reason)
    finally:
        state.restore()


def _behaviour(probe: _Probe, *, has_rank: bool, is_synchronised: bool) -> Behaviour:
    fits: dict[tuple[int, ...], _Fit] = {}
    reasons: list[str] = []
    for positions in _RANKS:
        if has_rank and fits:  # its class determines the rank
            break
        try:
            fits[positions] = probe.fit(positions)
        except _NotBatchNormError as reason:
            reasons.append(str(reason))
    if not fits:
        # "Computes something else" is a better reason than "raises" on another rank.
        raise _NotBatchNormError(min(reasons, key=lambda reason: reason.startswith("raises")))
    positions, fit = next(iter(fits.items()))
    ranks = sorted({_RANKS[key] for key in fits})
    if is_synchronised:
        untried = "takes its statistics over other processes, so that its training was not tried"
        is_frozen, difference = _TrainingBehaviour(is_frozen=False, difference=untried)
    else:
        is_frozen, difference = probe.in_training(positions, fit)
    return Behaviour(*fit, None if len(ranks) == 3 else ranks[0], is_frozen, difference)


class _NotBatchNormError(Exception):
    """The module is not a batch norm; the message says what it does."""


class _Fit(NamedTuple):
    eps: float
    activation: str | None
    child: str | None


class _TrainingBehaviour(NamedTuple):
    is_frozen: bool
    difference: str | None


class _ProbeRun(NamedTuple):
    """An input, the output, and the tensors of the module before the call."""

    x: Tensor
    y: Tensor
    before: dict[str, Tensor]

    def normalised(self, eps: float, *, by_batch: bool) -> Tensor:
        shape = (1, -1, *(1 for _ in self.x.shape[2:]))
        if by_batch or "running_mean" not in self.before:
            mean, variance = self.moments()
        else:
            mean, variance = self.before["running_mean"], self.before["running_var"]
        y = (self.x - mean.view(shape)) * (variance.view(shape) + eps).rsqrt()
        if "weight" in self.before:
            y = y * self.before["weight"].view(shape)
        return y + self.before["bias"].view(shape) if "bias" in self.before else y

    def few_channels(self) -> _ProbeRun:
        few = {name: tensor[:8] if tensor.dim() else tensor for name, tensor in self.before.items()}
        return _ProbeRun(self.x[:, :8], self.y[:, :8], few)

    def moments(self, correction: int = 0) -> tuple[Tensor, Tensor]:
        over = [dimension for dimension in range(self.x.dim()) if dimension != 1]
        return self.x.mean(over), self.x.var(over, correction=correction)


class _Probe:
    def __init__(self, module: nn.Module) -> None:
        try:
            self._twin = _twin(module)
        except Exception as error:
            raise _NotBatchNormError(f"cannot be copied to be tried ({type(error).__name__}: {error})") from error
        attributes = [getattr(self._twin, name, None) for name in ("running_mean", "running_var", "weight", "bias")]
        known = [tensor for tensor in attributes if isinstance(tensor, Tensor)]
        self._device = known[0].device if known else torch.device("cpu")
        with torch.no_grad():
            # A trainable activation must not match a fixed one by its current weights, such as a PReLU of 0.01 a leaky
            # ReLU.
            for child in self._twin.children():
                for tensor in (*child.parameters(), *child.buffers()):
                    if tensor.is_floating_point():
                        tensor.copy_(torch.linspace(0.15, 0.45, tensor.numel()).view_as(tensor))
        self._channels = known[0].numel() if known else int(getattr(module, "num_features", 0))

    def fit(self, positions: tuple[int, ...]) -> _Fit:
        """The eps and activation with which the module equals a batch norm in evaluation mode."""
        self._twin.eval()
        runs = [self._run(32, positions, tiny=tiny) for tiny in (False, True)]
        few = [run.few_channels() for run in runs]  # rejects most candidates without all channels of a wide layer
        for fit in self._candidates():
            # A child may have a weight for each channel, and is called with all channels.
            if (fit.child is not None or self._matches(few, fit)) and self._matches(runs, fit):
                return fit
        raise _NotBatchNormError(
            "computes something else in evaluation mode than (x - mean) / sqrt(variance + eps) * weight + bias and a known "
            "activation"
        )

    def _matches(self, runs: list[_ProbeRun], fit: _Fit) -> bool:
        return all(_equal(self._activated(run.normalised(fit.eps, by_batch=False), fit), run.y) for run in runs)

    def in_training(self, positions: tuple[int, ...], fit: _Fit) -> _TrainingBehaviour:
        """Whether the module is frozen, and how its training differs from that of a batch norm."""
        self._twin.train()
        try:
            with torch.enable_grad():  # some modules check this to detect training
                run = self._run(_BATCH, positions, tiny=False)
        except _NotBatchNormError as reason:
            return _TrainingBehaviour(is_frozen=False, difference=f"in training {reason}")
        after = self._tensors()
        has_moved = any(not _equal(after[name], tensor) for name, tensor in run.before.items())
        by_running = self._activated(run.normalised(fit.eps, by_batch=False), fit)
        if not has_moved and "running_mean" in run.before and _equal(by_running, run.y):
            return _TrainingBehaviour(is_frozen=True, difference=None)
        difference = None
        if not _equal(self._activated(run.normalised(fit.eps, by_batch=True), fit), run.y):
            difference = "computes something else in training than by the mean and variance of the batch"
        elif any(not _equal(after[name], tensor) for name, tensor in self._expected_state(run).items()):
            difference = "moves its running statistics in training otherwise than its momentum says"
        return _TrainingBehaviour(is_frozen=False, difference=difference)

    def _expected_state(self, run: _ProbeRun) -> dict[str, Tensor]:
        """The expected tensors after ``run``, the first one in training."""
        moved = dict(run.before)
        if not getattr(self._twin, "track_running_stats", "running_mean" in moved):
            return moved
        if "num_batches_tracked" in moved:
            moved["num_batches_tracked"] = moved["num_batches_tracked"] + 1
        if "running_mean" in moved:
            momentum = getattr(self._twin, "momentum", None)
            share = 1.0 if momentum is None else momentum
            for name, moment in zip(("running_mean", "running_var"), run.moments(correction=1), strict=True):
                moved[name] = (1 - share) * moved[name] + share * moment
        return moved

    def _candidates(self) -> Iterator[_Fit]:
        own = getattr(self._twin, "eps", None)
        own = own.item() if isinstance(own, Tensor) and own.numel() == 1 else own
        values = [float(own)] if isinstance(own, (int, float)) else []
        children = [name for name, _ in self._twin.named_children()]
        for eps in dict.fromkeys((*values, *_COMMON_EPS)):
            yield _Fit(eps, None, None)
            yield from (_Fit(eps, name, None) for name in FUNCTIONS)
            yield from (_Fit(eps, None, name) for name in children)

    def _activated(self, values: Tensor, fit: _Fit) -> Tensor:
        if fit.child is None:
            return values if fit.activation is None else FUNCTIONS[fit.activation](values)
        try:
            result = self._twin.get_submodule(fit.child)(values.clone())
        except Exception:
            return values.new_full((), torch.nan)  # so the activation does not match
        return result if isinstance(result, Tensor) else values.new_full((), torch.nan)

    @torch.no_grad()
    def _fill(self, *, tiny: bool) -> None:
        """Set values that reveal eps, a maximum instead of a sum, the sign of gamma and so on."""
        steps = torch.linspace(0, 1, self._channels, dtype=torch.float64, device=self._device)
        values = {
            "running_mean": steps * 1e-3 if tiny else steps * 2 - 1,  # avoids cancellation in float32
            "running_var": 2e-6 + steps * 3e-6 if tiny else 1e-3 + steps * 4,
            "weight": (0.5 + steps) * torch.where(torch.arange(self._channels, device=self._device) % 2 == tiny, 1, -1),
            "bias": steps - 0.3,
        }
        for name, value in values.items():
            tensor = getattr(self._twin, name, None)
            if isinstance(tensor, Tensor):
                tensor.data.copy_(value)
        counter = getattr(self._twin, "num_batches_tracked", None)
        if isinstance(counter, Tensor):
            counter.zero_()

    def _tensors(self) -> dict[str, Tensor]:
        names = ("running_mean", "running_var", "weight", "bias", "num_batches_tracked")
        attributes = {name: getattr(self._twin, name, None) for name in names}
        return {name: tensor.detach().clone() for name, tensor in attributes.items() if isinstance(tensor, Tensor)}

    def _run(self, count: int, positions: tuple[int, ...], *, tiny: bool) -> _ProbeRun:
        self._fill(tiny=tiny)
        before = self._tensors()
        numbers = count * (2 if positions else 1)
        x = torch.linspace(-8, 8, numbers, dtype=torch.float64, device=self._device).view(count, 1, *positions)
        x = x.repeat(1, self._channels, *(1 for _ in positions))
        if "running_mean" in before:
            shape = (1, -1, *(1 for _ in positions))
            x = before["running_mean"].view(shape) + x * (before["running_var"].view(shape) + 1e-5).sqrt()
        try:
            y = self._twin(x.clone())
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise _NotBatchNormError(
                f"raises {type(error).__name__} on an input of shape {tuple(x.shape)}: {said}"
            ) from error
        if not isinstance(y, Tensor) or y.shape != x.shape:
            raise _NotBatchNormError("returns something else than a tensor of its input's shape")
        return _ProbeRun(x, y.detach(), before)


def _equal(expected: Tensor, got: Tensor) -> bool:
    if expected.shape != got.shape:
        return False
    # Like torch.allclose, but with a third of the passes over the values; NaN is never equal.
    expected, got = expected.double(), got.double()
    beyond = (expected - got).abs_().sub_(expected.abs().mul_(_TOLERANCE))
    return not beyond.numel() or bool(beyond.max() <= _TOLERANCE)


def _twin(module: nn.Module) -> nn.Module:
    group = getattr(module, "process_group", None)
    memo: dict[int, object] = {id(group): group}
    for part in module.modules():
        # Hooks must not run, and copying them might copy the user's whole program.
        memo.update({id(value): OrderedDict() for name, value in vars(part).items() if name.endswith("_hooks")})
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        take_out(part, Frozen)
    if any(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers())):
        twin = twin.to_empty(device="cpu")
    return twin.double()


def waits_for_processes(module: nn.Module) -> bool:
    """Whether training ``module`` waits for other processes."""
    initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
    return initialised and (isinstance(module, batchnorm.SyncBatchNorm) or bool(getattr(module, "sync", False)))
