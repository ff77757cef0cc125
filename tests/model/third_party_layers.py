"""Batch norms as other libraries and users write them: the same structure, in words of our own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class WithActivation2d(nn.BatchNorm2d):
    """Batch norm, dropout and activation in one, the way of a zoo of image models."""

    def __init__(self, channels, act=nn.ReLU, drop=nn.Identity, **arguments):
        super().__init__(channels, **arguments)
        self.drop = drop()
        self.act = act()

    def forward(self, x):
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        factor = self.momentum or 0.0
        if self.training and self.momentum is None:
            factor = 1.0 / float(self.num_batches_tracked)
        x = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, factor, self.eps
        )
        return self.act(self.drop(x))


class SyncWithActivation(nn.SyncBatchNorm):
    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Frozen2d(nn.Module):
    """A layer of buffers, the way of two libraries for detection. ``eps=None``: it is in the variance already."""

    def __init__(self, channels, eps=1e-5, has_eps=True, act=None):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.linspace(0.5, 1.5, channels))
        if has_eps:
            self.eps = eps
        if act is not None:
            self.act = act()

    def forward(self, x):
        scale = self.weight * (self.running_var + getattr(self, "eps", 1e-5)).rsqrt()
        shift = self.bias - self.running_mean * scale
        x = x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return self.act(x) if hasattr(self, "act") else x

    def _load_from_state_dict(self, state_dict, prefix, *others):
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *others)


class FrozenWithParameters2d(Frozen2d):
    """Its gamma and beta learn, its statistics stay."""

    def __init__(self, channels):
        super().__init__(channels)
        for name in ("weight", "bias"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, nn.Parameter(value))


class FromScratch(nn.Module):
    """A batch norm that a user wrote, with PyTorch's names."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def statistics(self, x):
        return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)

    def forward(self, x):
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self.statistics(x)
            count = x.numel() / x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class BiasedFromScratch(FromScratch):
    """The same with a usual mistake: it keeps the biased variance."""

    def forward(self, x):
        if self.training:
            mean, variance = self.statistics(x)
            with torch.no_grad():
                count = x.numel() / x.shape[1]
                self.running_var.sub_(self.momentum * variance / (count - 1))
        return super().forward(x)


class Ghost2d(nn.BatchNorm2d):
    """Statistics of parts of the batch."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        return torch.cat([nn.BatchNorm2d.forward(self, part) for part in x.split(128)])


class Doubled2d(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


class LargestOfEps2d(nn.BatchNorm2d):
    """``sqrt(max(variance, eps))`` in place of ``sqrt(variance + eps)``."""

    def forward(self, x):
        variance = self.running_var.clamp(min=self.eps)
        return functional.batch_norm(x, self.running_mean, variance, self.weight, self.bias, eps=0.0)


class AbsoluteGamma(FromScratch):
    """The gamma of a layer that is applied in place."""

    def forward(self, x):
        mean, variance = self.running_mean[:, None, None], self.running_var[:, None, None]
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return x * (self.weight.abs() + self.eps)[:, None, None] + self.bias[:, None, None]


class OfTwoInputs2d(nn.BatchNorm2d):
    def forward(self, x, other=None):
        x = super().forward(x)
        return x if other is None else x * other


class NeedsTwoInputs2d(nn.BatchNorm2d):
    def forward(self, x, other):
        return super().forward(x) * other


class Split2d(nn.BatchNorm2d):
    """A second set of statistics for a part of the batch in training."""

    def __init__(self, channels):
        super().__init__(channels)
        self.other = nn.BatchNorm2d(channels)


class Counting2d(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("seen", torch.zeros(()))


class WithExtraState2d(nn.BatchNorm2d):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Uncopyable2d(nn.BatchNorm2d):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")


class Renamed2d(nn.BatchNorm2d):
    """A subclass that changes nothing but the defaults."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.03)


def trained(layer, seed=0):
    """``layer`` with statistics, gamma and beta as training leaves them."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if tensor.is_floating_point():
                values = torch.rand(tensor.shape, generator=draw)
                tensor.copy_(values + 0.5 if name.endswith("running_var") else values - 0.3)
            else:
                tensor.fill_(7)
    return layer
