"""BN105."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.model.inspect.operation_types import OpType
from bnkit.model.inspect.trace import Operation, Trace


class DropoutBefore(Rule):
    """A batch norm whose input varies more in training than in evaluation, because dropout only acts in training."""

    code = "BN105"
    name = "dropout-before"
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if norm.is_frozen or norm.mean is None:  # neither uses the statistics of training
                continue
            dropped = [
                p
                for call in context.example_trace.calls(site)
                if (p := _dropped_before(context.example_trace.trace, call)) > 0
            ]
            if dropped:
                p = max(dropped)
                yield self.finding(
                    site.name,
                    f"dropout (p = {p:.2g}) precedes it: in training the variance of its input is about "
                    f"{1 / (1 - p):.3g} times that of evaluation",
                    remedy="put dropout after the last batch norm",
                    measured=round(p, 6),
                    limit=0.0,
                )


def _dropped_before(run: Trace, start: Operation) -> float:
    """The largest share of values that dropout drops on the way to ``start``: up to the next norm, across one layer."""
    largest = 0.0
    pending, visited = [(start, False)], {start.index}
    while pending:
        step, crossed = pending.pop()
        for before in run.inputs_of(step):
            crosses = crossed or before.kind.has_weights
            keeps_features = (
                before.kind.keeps_features
                or before.kind is OpType.ACTIVATION
                or (before.kind.has_weights and not crossed)
            )
            if before.index in visited or not (keeps_features or _share(run, before) > 0):
                continue
            visited.add(before.index)
            largest = max(largest, _share(run, before))
            pending.append((before, crosses))
    return largest


def _share(run: Trace, operation: Operation) -> float:
    """The share of single values or channels that ``operation`` drops; 0 if it is not a dropout."""
    name = operation.name.rstrip("_")
    if name in ("native_dropout", "dropout"):
        p = operation.arguments[1] if len(operation.arguments) > 1 else 0.0
        return float(p) if isinstance(p, (int, float)) and 0 < p < 1 else 0.0
    if name != "mul" or len(operation.inputs) != 2:
        return 0.0
    return max(_share_of_noise(run, run.operations[index]) for index in operation.inputs if index >= 0)


def _share_of_noise(run: Trace, step: Operation) -> float:
    # The noise is drawn, then scaled and shifted; dropping whole examples does not change the others.
    while step.kind in (OpType.SCALE, OpType.MERGE) and len(step.inputs) == 1 and step.inputs[0] >= 0:
        step = run.operations[step.inputs[0]]
    drops_examples = all(size == 1 for size in step.shape[1:])
    if step.name != "bernoulli_" or drops_examples:
        return 0.0
    kept = step.arguments[1] if len(step.arguments) > 1 else 0.5  # the default, which is not passed as an argument
    return 1.0 - kept if isinstance(kept, (int, float)) and 0 < kept < 1 else 0.0
