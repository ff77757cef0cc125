"""BN202."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bnkit.checks.context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rules.statistics.recalibrate_fix import RecalibrateFix
from bnkit.model.inspect.recognise import BatchNormLike


class NeverUpdated(RecalibrateFix):
    """Running statistics that are those of the beginning, in a model that has been trained."""

    code = "BN202"
    name = "never-updated"
    severity = Severity.ERROR

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        tracked = {site: norm for site, norm in context.norms.items() if norm.mean is not None and not norm.is_frozen}
        untouched = [site for site, norm in tracked.items() if is_initial(norm)]
        if len(untouched) == len(tracked) and not any(_is_trained(norm) for norm in tracked.values()):
            return  # the whole model is new
        for site in untouched:
            yield self.finding(
                site.name,
                "its running statistics are mean 0 and variance 1, as at the beginning, though the model has been trained",
                remedy="train it in training mode, or bnkit.recalibrate(model, batches)",
                measured=0,
                limit=1,
            )


def is_initial(norm: BatchNormLike) -> bool:
    """Whether the running statistics are those that a layer is made with."""
    if norm.mean is None or norm.variance is None:
        return False
    return not bool(norm.mean.any()) and bool((norm.variance == 1).all())


def _is_trained(norm: BatchNormLike) -> bool:
    """Whether gamma or beta are no constants any more, which every initialisation makes them."""
    return any(_varies(tensor) for tensor in (norm.weight, norm.bias) if tensor is not None)


def _varies(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor != tensor[0]).any())
