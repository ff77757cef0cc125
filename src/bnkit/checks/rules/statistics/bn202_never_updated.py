"""BN202."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rules.statistics.recalibrate_fix import RecalibrateFix
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike


class NeverUpdated(RecalibrateFix):
    """Running statistics that still have their initial values in a trained model."""

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
                "its running statistics still have their initial values, 0 and 1, though the model has been trained",
                remedy="train it in training mode, or bnkit.recalibrate(model, batches)",
                measured=0,
                limit=1,
            )


def is_initial(norm: BatchNormLike) -> bool:
    """Whether the running statistics have their initial values."""
    if norm.mean is None or norm.variance is None:
        return False
    return not bool(norm.mean.any()) and bool((norm.variance == 1).all())


def _is_trained(norm: BatchNormLike) -> bool:
    """Whether gamma or beta vary over the channels; every initialisation makes them constant."""
    return any(_varies(tensor) for tensor in (norm.weight, norm.bias) if tensor is not None)


def _varies(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor != tensor[0]).any())
