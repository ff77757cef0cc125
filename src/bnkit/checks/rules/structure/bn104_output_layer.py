"""BN104."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.example_trace import ExampleTrace
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike
from bnkit.model.inspect.trace import Operation

# Operations that turn scores into probabilities: their input counts as an output.
_OF_SCORES = ("softmax", "log_softmax", "sigmoid", "logsigmoid", "log_sigmoid_forward")


class OutputLayer(Rule):
    """A batch norm whose result is the output of the model."""

    code = "BN104"
    name = "output-layer"
    former_names = ("on-the-output",)
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if not norm.is_frozen and any(
                _is_output(context.example_trace, call, norm) for call in context.example_trace.calls(site)
            ):
                yield self.finding(
                    site.name,
                    "it normalises the output of the model: the output for one example depends on the others in its batch",
                    remedy="remove it after the last layer, and give that layer a bias",
                    measured="output",
                )


def _is_output(run: ExampleTrace, call: Operation, norm: BatchNormLike) -> bool:
    if norm.activation not in (None, "sigmoid"):
        return False
    if run.reaches_output(call):
        return True
    return any(
        user.name.lower().strip("_") in _OF_SCORES and run.reaches_output(user) and user.shape == call.shape
        for user in run.after(call)
    )
