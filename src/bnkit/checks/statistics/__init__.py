"""Rules about running statistics, gamma and beta, and about the data: BN2xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule

RULES: tuple[type[Rule], ...] = ()
