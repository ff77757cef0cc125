"""Apply mechanical fixes in a copy of the model. This module decides which findings are fixed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from bnkit.checks.finding import Finding
from bnkit.checks.rule import Rule
from bnkit.checks.rule_registry import Names, rules, split_names
from bnkit.model.change_list import Change, Changed, Changes
from bnkit.model.edit.deepcopy_model import deepcopy_model


def apply_fixes(
    model: nn.Module, findings: Collection[Finding], batches: Any = None, *, select: Names | None = None
) -> Changed:
    """A copy of ``model`` with the mechanical fixes for ``findings``, and the list of changes.

    Args:
        model: The model; it is not changed.
        findings: The findings of ``check``.
        batches: Data, for fixes that need their statistics: a list, a ``DataLoader``, or another re-iterable.
        select: A fix that changes the keys of the ``state_dict``, so that the weights only load into another network, is applied
            only if these contain the full code of its rule.

    Raises:
        ModelError: If the model cannot be copied, or recalibrated.
    """
    fixed = deepcopy_model(model)
    named = {name.upper() for name in split_names(select or ())}
    # A fix that several rules share is applied once.
    work: dict[Any, tuple[Rule, list[Finding]]] = {}
    for rule in rules():
        own = [finding for finding in findings if finding.code == rule.code]
        if own and (is_fixed_by_default(rule) or (rule.is_fixable and rule.code in named)):
            work.setdefault(type(rule).fix, (rule, []))[1].extend(own)
    changes: list[Change] = []
    for rule, own in work.values():
        changes += rule.fix(fixed, own, batches)
    return Changed(fixed, Changes(changes))


def is_fixed_by_default(rule: Rule) -> bool:
    """Whether ``rule`` is fixed even if not selected by code: the fixed weights then load into the same network."""
    return rule.is_fixable and not rule.fix_changes_keys
