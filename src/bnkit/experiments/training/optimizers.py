"""Optimizers and learning rate schedules, PyTorch's own, from the settings of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from bnkit.experiments.run_settings import Settings

# Where "step" divides the learning rate by ten, as shares of the training (He et al. 2015, "Deep Residual Learning for
# Image Recognition", section 4.2: at 32k and 48k of 64k iterations).
_STEPS = (0.5, 0.75)


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Settings) -> optim.Optimizer:
    """The optimizer that ``settings`` name, with PyTorch's defaults for the rest."""
    parameters = list(parameters)
    if settings.optimizer == "sgd":
        return optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    kind = optim.Adam if settings.optimizer == "adam" else optim.AdamW
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def preload_optimizers() -> None:
    """Make PyTorch load torch._dynamo, as the first optimizer of a process does: these seconds should not count as part of a run."""
    optim.SGD([nn.Parameter(torch.zeros(1))])


def make_schedule(optimizer: optim.Optimizer, settings: Settings, steps: int) -> LRScheduler | None:
    """The scheduler of the learning rate, for ``steps`` steps; None for "constant"."""
    match settings.schedule:
        case "constant":
            return None
        case "step":
            return MultiStepLR(optimizer, [max(1, round(steps * share)) for share in _STEPS])
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        case "one-cycle":
            # One more than the number of steps, because the scheduler raises an error after its last step.
            return OneCycleLR(optimizer, max_lr=settings.lr, total_steps=steps + 1, cycle_momentum=False)
