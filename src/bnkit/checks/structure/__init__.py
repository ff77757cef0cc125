"""Rules about how batch norms are built into a model: BN1xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.structure.half_precision import HalfPrecision
from bnkit.checks.structure.two_in_a_row import TwoInARow
from bnkit.checks.structure.useless_bias import UselessBias

RULES: tuple[type[Rule], ...] = (UselessBias, TwoInARow, HalfPrecision)
