"""Rules about how batch norms are built into a model: BN1xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.structure.after_activation import AfterActivation
from bnkit.checks.rules.structure.consecutive import Consecutive
from bnkit.checks.rules.structure.dropout_before import DropoutBefore
from bnkit.checks.rules.structure.half_precision import HalfPrecision
from bnkit.checks.rules.structure.large_momentum import LargeMomentum
from bnkit.checks.rules.structure.output_layer import OutputLayer
from bnkit.checks.rules.structure.shared import Shared
from bnkit.checks.rules.structure.small_eps import SmallEps
from bnkit.checks.rules.structure.stripped_by_sync import StrippedBySync
from bnkit.checks.rules.structure.unused import Unused
from bnkit.checks.rules.structure.useless_bias import UselessBias

RULES: tuple[type[Rule], ...] = (
    UselessBias,
    AfterActivation,
    Consecutive,
    OutputLayer,
    DropoutBefore,
    Shared,
    Unused,
    SmallEps,
    HalfPrecision,
    StrippedBySync,
    LargeMomentum,
)
