"""Rules about how batch norms are built into a model: BN1xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.structure.bn101_useless_bias import UselessBias
from bnkit.checks.rules.structure.bn102_after_activation import AfterActivation
from bnkit.checks.rules.structure.bn103_consecutive import Consecutive
from bnkit.checks.rules.structure.bn104_output_layer import OutputLayer
from bnkit.checks.rules.structure.bn105_dropout_before import DropoutBefore
from bnkit.checks.rules.structure.bn106_shared import Shared
from bnkit.checks.rules.structure.bn107_unused import Unused
from bnkit.checks.rules.structure.bn108_small_eps import SmallEps
from bnkit.checks.rules.structure.bn109_half_precision import HalfPrecision
from bnkit.checks.rules.structure.bn110_stripped_by_sync import StrippedBySync
from bnkit.checks.rules.structure.bn111_large_momentum import LargeMomentum

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
