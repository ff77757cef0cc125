"""BN101."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.message_parts import plural
from bnkit.model.change_list import Change
from bnkit.model.edit.fold_plan import feeding_layer


class UselessBias(Rule):
    """A layer with a bias right before a batch norm, which subtracts the mean and with it the bias."""

    code = "BN101"
    name = "useless-bias"
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})
    is_fixable = True
    fix_changes_keys = True

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        norms_after: dict[str, list[str]] = {}
        for site, norm in context.norms.items():
            # A frozen batch norm subtracts a fixed mean, which does not follow the bias: there the bias has an effect.
            if norm.is_frozen:
                continue
            for call in context.example_trace.calls(site):
                name = feeding_layer(context.example_trace.trace, call)
                if name is not None:
                    norms_after.setdefault(name, []).append(site.name)
        for layer in context.example_trace.sites:
            bias = _bias(context.model, layer.name)
            # A batch norm must follow every call; a bias with other uses has an effect.
            if bias is None or len(norms_after.get(layer.name, ())) < layer.calls or _owners(context.model, bias) > 1:
                continue
            norms = ", ".join(dict.fromkeys(norms_after[layer.name]))
            yield self.finding(
                layer.name,
                f"its bias is cancelled by {norms}",
                remedy=f"set bias=False (saves {plural(bias.numel(), 'parameter')})",
                measured=bias.numel(),
                limit=0,
            )

    def fix(self, model: nn.Module, findings: Sequence[Finding], batches: Any) -> list[Change]:
        changes = []
        for finding in findings:
            layer = model.get_submodule(finding.site)
            bias = layer._parameters["bias"]
            assert bias is not None
            norms_after = finding.message.removeprefix("its bias is cancelled by ").split(", ")
            with torch.no_grad():
                for name in norms_after:
                    _shift(model.get_submodule(name), -bias)
            layer.register_parameter("bias", None)
            changes.append(
                Change(finding.site, "bias removed", f"subtracted from the running mean of {', '.join(norms_after)}")
            )
        return changes


def _shift(norm: nn.Module, by: Tensor) -> None:
    """Shift the running mean, so that evaluation gives the same outputs as before."""
    mean = getattr(norm, "running_mean", None)
    if isinstance(mean, Tensor):
        mean.add_(by)


def _bias(model: nn.Module, name: str) -> nn.Parameter | None:
    return dict(model.get_submodule(name).named_parameters(recurse=False)).get("bias")


def _owners(model: nn.Module, parameter: nn.Parameter) -> int:
    return sum(p is parameter for module in model.modules() for p in module._parameters.values())
