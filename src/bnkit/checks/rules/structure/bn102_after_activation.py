"""BN102."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.example_trace import ExampleTrace
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.model.inspect.layer_sites import plain_name
from bnkit.model.inspect.operation_types import OpType
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike
from bnkit.model.inspect.trace import Operation


class AfterActivation(Rule):
    """A batch norm that normalises the output of an activation."""

    code = "BN102"
    name = "after-activation"
    severity = Severity.NOTE
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        by_name = {site.name: norm for site, norm in context.norms.items()}
        for site in context.norms:
            for call in context.example_trace.calls(site):
                activation = _activation(context.example_trace, call, by_name)
                if activation:
                    yield self.finding(
                        site.name,
                        f"it normalises the output of {activation}",
                        remedy="put it before the activation, as in the paper, unless this is intended",
                        measured=activation,
                    )
                    break


def _activation(run: ExampleTrace, call: Operation, norms: dict[str, BatchNormLike]) -> str:
    """The activation before ``call``, possibly followed by pooling and padding; empty if there is none."""
    step = run.before(call)
    while step is not None and step.kind in (OpType.POOL, OpType.THROUGH):
        step = run.before(step)
    if step is None:
        return ""
    if step.kind is OpType.ACTIVATION:
        return plain_name(step)
    inside = norms[step.module].activation if step.module in norms else None
    if inside is None:
        return ""
    return f"{step.module}, with its {inside if isinstance(inside, str) else type(inside).__name__.lower()}"
