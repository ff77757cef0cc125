"""BN306."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.message_parts import plural
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, batch_norm_sites


class WeightAverageStaleStats(Rule):
    """Averaged parameters with running statistics of the last step's parameters, or of an untrained model."""

    code = "BN306"
    name = "weight-average-stale-stats"
    former_names = ("averaged-without-statistics",)
    severity = Severity.WARNING
    needs = frozenset({Need.EMA})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        assert context.training.ema is not None
        if not _differ(context.model, context.training.ema):  # there are no averages yet
            return
        averages = {_unwrapped(site.name): site.recognised_as for site in batch_norm_sites(context.training.ema)}
        sites_by_statistics: dict[str, list[str]] = {}
        for site, norm in context.norms.items():
            averaged = averages.get(_unwrapped(site.name))
            if norm.is_frozen or not isinstance(averaged, BatchNormLike):
                continue
            statistics = _stale_statistics(averaged, norm)
            if statistics:
                sites_by_statistics.setdefault(statistics, []).append(site.name)
        for statistics, (first, *others) in sites_by_statistics.items():
            more = f", like {plural(len(others), 'more batch norm')}" if others else ""
            yield self.finding(
                first,
                f"the averaged model has averaged weights here, and {statistics}{more}",
                remedy="bnkit.recalibrate(ema, batches), or AveragedModel(model, use_buffers=True)",
                measured=statistics,
                limit="statistics of the averaged weights",
            )


def _stale_statistics(averaged: BatchNormLike, norm: BatchNormLike) -> str:
    """The origin of the averaged model's statistics, if they belong to other weights; empty otherwise."""
    if averaged.mean is None or averaged.variance is None or norm.mean is None or norm.variance is None:
        return ""
    mean, variance = averaged.mean.detach().cpu(), averaged.variance.detach().cpu()
    if not mean.any() and bool((variance == 1).all()):
        return "the statistics of an untrained one"
    if torch.equal(mean, norm.mean.detach().cpu()) and torch.equal(variance, norm.variance.detach().cpu()):
        return "the statistics that belong to the weights of the last step"
    return ""


def _differ(model: nn.Module, ema: nn.Module) -> bool:
    averages = {_unwrapped(name): parameter for name, parameter in ema.named_parameters()}
    pairs = [(p, averages[_unwrapped(name)]) for name, p in model.named_parameters() if _unwrapped(name) in averages]
    return any(p.shape == a.shape and not torch.equal(p.detach().cpu(), a.detach().cpu()) for p, a in pairs)


def _unwrapped(name: str) -> str:
    """A name without the prefixes of wrappers around the model."""
    return name.replace("_orig_mod.", "").removeprefix("module.").removeprefix("module.")
