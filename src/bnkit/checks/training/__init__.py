"""Rules about how a model with batch norm is set up for training: BN3xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule

RULES: tuple[type[Rule], ...] = ()
