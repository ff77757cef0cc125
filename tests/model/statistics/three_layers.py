"""A network of three batch norms, its data, and what recalibration should give, for the tests of recalibrate."""

from __future__ import annotations

import torch
from torch import nn

import bnkit.nn


def _data(count=24):
    """In an order: each image a little brighter than the one before."""
    noise = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise * 3 + torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1) / 4 + 5


def _model(layer=bnkit.nn.BatchNorm2d, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            layer(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(4, 5, 3),
            layer(5, momentum=None),
            nn.ReLU(),
            nn.Conv2d(5, 2, 1),
            layer(2),
        )
        for module in model:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.fill_(7)
    return model.to(dtype)


NORMS, CONVOLUTIONS = (1, 5, 8), (0, 4, 7)


def _by_hand(model, batches, *, sequential):
    """A loop without hooks: what reaches each of the three layers, and its moments over all batches."""
    settled = {}
    for position in NORMS:
        everything = []
        for batch in batches:
            x = batch
            for convolution, norm in zip(CONVOLUTIONS, NORMS, strict=True):
                x = nn.functional.conv2d(x, model[convolution].weight, model[convolution].bias)
                if norm == position:
                    everything.append(x)
                    break
                mean, variance = settled[norm] if sequential else (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
                x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + model[norm].eps).sqrt()
                x = nn.functional.relu(x * model[norm].weight.view(1, -1, 1, 1) + model[norm].bias.view(1, -1, 1, 1))
        everything = torch.cat(everything).transpose(0, 1).flatten(1).detach()
        settled[position] = (everything.mean(1), everything.var(1))
    return settled


def _statistics(model):
    return {position: (model[position].running_mean.clone(), model[position].running_var.clone()) for position in NORMS}


def _assert_close(found, expected, rtol=1e-11, atol=1e-12):
    for position in expected:
        for got, wanted in zip(found[position], expected[position], strict=True):
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


def _everything(model):
    modes = [module.training for module in model.modules()]
    momenta = [getattr(module, "momentum", 0) for module in model.modules()]
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    return modes, momenta, hooks, [parameter.grad for parameter in model.parameters()]


def _assert_same_state(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
