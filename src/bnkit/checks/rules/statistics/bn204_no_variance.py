"""BN204."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.checks.rules.structure.bn108_small_eps import rounding_variance

# A standard deviation of one millionth: below the scale of any layer's values.
_NEGLIGIBLE = 1e-12


class NoVariance(Rule):
    """Channels with constant input: their output is beta for every example."""

    code = "BN204"
    name = "no-variance"
    severity = Severity.WARNING
    needs = frozenset({Need.DATA})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for name, inputs in context.measurements.input_statistics.items():
            data = inputs.population
            if data is None or inputs.examples < 2:
                continue
            constant = int(_is_constant(data.mean, data.variance(unbiased=False)).sum())
            if constant:
                yield self.finding(
                    name,
                    f"{constant} of its {len(data.mean)} channels do not vary over {inputs.examples:,} examples "
                    f"(variance at most {_NEGLIGIBLE:g} and rounding errors)",
                    remedy="look for dead activations before it; bnkit.remove or pruning removes the channels",
                    measured=constant,
                    limit=0,
                )


def _is_constant(mean: Tensor, variance: Tensor) -> Tensor:
    # The variance of values that differ only by rounding grows with the square of their size.
    return variance <= _NEGLIGIBLE + 4 * rounding_variance(torch.float32) * mean.square()
