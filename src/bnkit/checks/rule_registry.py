"""All rules, and how they are selected."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from bnkit.checks.rule import Rule
from bnkit.checks.rule_pages import unknown_rule
from bnkit.checks.rules import statistics, structure, training

Names = str | Sequence[str]


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule, by code."""
    kinds = (*structure.RULES, *statistics.RULES, *training.RULES)
    return tuple(sorted((kind() for kind in kinds), key=lambda rule: rule.code))


def selected_rules(select: Names | None, ignore: Names | None) -> tuple[Rule, ...]:
    """The rules that are selected (all, for None) and not ignored.

    Args:
        select, ignore: Codes, beginnings of codes ("BN1"), names, or "ALL"; commas separate several in one text.

    Raises:
        SettingsError: If one of them names no rule.

    Examples:
        >>> [rule.code for rule in selected_rules("BN101,consecutive", None)]
        ['BN101', 'BN103']
    """
    wanted = None if select is None else matching_codes(select)
    unwanted = matching_codes(ignore or ())
    return tuple(rule for rule in rules() if (wanted is None or rule.code in wanted) and rule.code not in unwanted)


def matching_codes(names: Names) -> frozenset[str]:
    """The codes of the rules that match ``names``.

    Raises:
        SettingsError: If one of them names no rule.
    """
    codes: set[str] = set()
    for name in split_names(names):
        matching = [rule.code for rule in rules() if _matches(rule, name)]
        if not matching:
            raise unknown_rule(name)
        codes.update(matching)
    return frozenset(codes)


def _matches(rule: Rule, name: str) -> bool:
    if name.upper() == "ALL":
        return True
    is_prefix = name.upper().startswith("BN") and rule.code.startswith(name.upper())
    return is_prefix or rule.is_called(name)


def split_names(names: Names) -> list[str]:
    """``names`` as a list, split at commas."""
    several = [names] if isinstance(names, str) else names
    parts = [part.strip() for text in several for part in text.split(",")]
    return [part for part in parts if part]
