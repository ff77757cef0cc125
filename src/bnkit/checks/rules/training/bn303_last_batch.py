"""BN303."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

from torch.utils.data import BatchSampler

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need


class LastBatch(Rule):
    """An epoch that ends with a batch of one example, which has no variance."""

    code = "BN303"
    name = "last-batch-of-one"
    severity = Severity.ERROR
    needs = frozenset({Need.LOADER})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        rest = last_batch(context.training.loader)
        trained = [site for site, norm in context.norms.items() if not norm.is_frozen]
        if rest != 1 or not trained:
            return
        # If one example has many values per channel, it only skews the statistics.
        values = (
            {site: context.example_trace.values_per_example(site) for site in trained}
            if context.example is not None
            else {}
        )
        alone = [site for site in trained if values.get(site, 1) == 1]
        if alone:
            message = "the last batch of an epoch has one example: it has no variance, and training stops there"
        else:
            message = (
                "the last batch of an epoch has one example: its mean and variance have the same weight in the running "
                "statistics as those of a full batch"
            )
        yield self.finding(
            (alone or trained)[0].name,
            message,
            remedy="drop_last=True in the DataLoader, or another batch size",
            measured=1,
            limit=2,
            severity=Severity.ERROR if alone else Severity.WARNING,
        )


def last_batch(loader: Any) -> int | None:
    """The size of the last batch of ``loader``; None if it is unknown without iterating over it.

    Examples:
        >>> from torch.utils.data import DataLoader
        >>> last_batch(DataLoader(range(9), batch_size=4)), last_batch(DataLoader(range(9), batch_size=4, drop_last=True))
        (1, 4)
    """
    sampler = getattr(loader, "batch_sampler", None)
    source = sampler if type(sampler) is BatchSampler else loader
    size, drops = getattr(source, "batch_size", None), bool(getattr(source, "drop_last", False))
    examples = getattr(source, "sampler", None) or getattr(source, "dataset", None)
    if not isinstance(size, int) or not isinstance(examples, Sized):
        return None
    try:
        count = len(examples)
    except TypeError:  # an iterable dataset
        return None
    rest = count % size
    return size if rest == 0 or (drops and count >= size) else rest
