"""BN302."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike


class UnfrozenByTrain(Rule):
    """Statistics frozen by hand, which the next call of ``train()`` unfreezes."""

    code = "BN302"
    name = "unfrozen-by-train"
    former_names = ("thawed-by-train",)
    severity = Severity.WARNING

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        trains = any(parameter.requires_grad for parameter in context.model.parameters())
        for site, norm in context.norms.items():
            if norm.mean is None or not norm.tracks_statistics or site.module not in context.trained:
                continue
            if context.model.training and not site.module.training:
                message = "it was put into evaluation mode while the model trains; the next model.train() unfreezes it"
                measured = "eval"
            elif trains and _is_untrained(norm):
                message = "its gamma and beta are not trained, but its statistics are updated in training mode"
                measured = "requires_grad=False"
            else:
                continue
            yield self.finding(
                site.name, message, remedy="bnkit.freeze(model), which .train() does not undo", measured=measured
            )


def _is_untrained(norm: BatchNormLike) -> bool:
    own = [parameter for parameter in (norm.weight, norm.bias) if parameter is not None]
    return bool(own) and not any(parameter.requires_grad for parameter in own)
