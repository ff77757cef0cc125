"""Holds the sum over the batch norms of `bnkit.summary` against a step of the same network without them.

Times depend on the machine, so that this is a script and not a test:

    python -m tests.model.instrument.without_batch_norm
    python -m tests.model.instrument.without_batch_norm --batch 16 --side 112 --rounds 15
"""

from __future__ import annotations

import argparse
import copy
import sys

import torch
from torch import nn

import bnkit
from bnkit.model.inspect.example import Example
from bnkit.model.instrument.interleaved_timing import PairedRounds
from bnkit.model.instrument.step_timing import Clock, TrainingStep, interleaved


def without_batch_norm(model):
    """A copy with nothing where batch norm was."""
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())
    return copied


def say(line):
    sys.stdout.write(f"{line}\n")


def main():
    from pytorchcv.model_provider import get_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = get_model(options.network, num_classes=10)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    x = torch.rand(options.batch, 3, options.side, options.side)
    costs = bnkit.summary(model, x, repetitions=options.rounds)
    low, high = costs.share_range
    say(f"sum over {len(costs)} batch norms: {costs.totals['share']:.1%} of a step [{low:.1%}, {high:.1%}]")
    step = TrainingStep(Example(x), Clock(None))
    variants = {"with": model.train(), "without": without_batch_norm(model).train()}
    rounds = PairedRounds(
        interleaved(
            {name: lambda variant=variant: step.run(variant) for name, variant in variants.items()},
            repetitions=options.rounds,
            warm_up=2,
        )
    )
    low, middle, high = rounds.ratio("without", "with")
    say(f"a step without them takes less by: {1 - middle:.1%} [{1 - high:.1%}, {1 - low:.1%}]")
    say(
        f"step {costs.step_ms:.1f} ms in the summary, {rounds.ms('with'):.1f} ms with and {rounds.ms('without'):.1f} ms without"
    )


if __name__ == "__main__":
    main()
