"""Fix what can be fixed mechanically, in a copy of the model; what may be fixed is decided here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from bnkit.checks.finding import Finding
from bnkit.checks.rule import Rule
from bnkit.checks.rule_registry import Names, rules, split_names
from bnkit.model.changes import Change, Changed, Changes
from bnkit.model.edit.copy import deepcopy_model


def apply_fixes(
    model: nn.Module, findings: Collection[Finding], batches: Any = None, *, select: Names | None = None
) -> Changed:
    """A copy of ``model`` in which ``findings`` are fixed as far as that is mechanical, and the list of changes.

    Args:
        model: Left as it is.
        findings: What ``check`` found.
        batches: Data, for those that need the statistics of data: a list, a ``DataLoader``, what can be gone through again.
        select: A fix that changes the keys of the ``state_dict``, whose weights load into another network only, is applied only
            where the whole code of its rule is among these.

    Raises:
        ModelError: The model cannot be copied, or recalibrated.
    """
    fixed = deepcopy_model(model)
    named = {name.upper() for name in split_names(select or ())}
    # Rules that share a fix are fixed once.
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
    """Whether the findings of ``rule`` are fixed without its being named: the weights then load into the same network."""
    return rule.is_fixable and not rule.fix_changes_keys
