"""A copy of a model in which what can be mended mechanically is mended."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from bnkit.checks.finding import Finding
from bnkit.checks.rule import Rule
from bnkit.checks.rule_registry import rules
from bnkit.model.changes import Change, Changed, Changes
from bnkit.model.edit.copy import copy_of


def apply_fixes(
    model: nn.Module, findings: Collection[Finding], batches: Any = None, *, keep_keys: bool = False
) -> Changed:
    """A copy of ``model`` without what ``findings`` found, as far as that is mechanical, and the list of changes.

    Args:
        model: Left as it is.
        findings: What ``check`` found.
        batches: Data, for those that need the statistics of data: a list, a ``DataLoader``, what can be gone through again.
        keep_keys: Leave out what changes the keys of the ``state_dict``: the weights then load into the same network.

    Raises:
        ModelError: The model cannot be copied, or recalibrated.
    """
    twin = copy_of(model)
    # Rules that share a way to mend are mended once.
    work: dict[Any, tuple[Rule, list[Finding]]] = {}
    for rule in rules():
        own = [finding for finding in findings if finding.code == rule.code]
        if own and rule.is_fixable and not (keep_keys and rule.fix_changes_keys):
            work.setdefault(type(rule).fix, (rule, []))[1].extend(own)
    changes: list[Change] = []
    for rule, own in work.values():
        changes += rule.fix(twin, own, batches)
    return Changed(twin, Changes(changes))
