"""Rules about how batch norms are built into a model: BN1xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.structure.after_activation import AfterActivation
from bnkit.checks.rules.structure.dropout_before import DropoutBefore
from bnkit.checks.rules.structure.half_precision import HalfPrecision
from bnkit.checks.rules.structure.large_momentum import LargeMomentum
from bnkit.checks.rules.structure.never_runs import NeverRuns
from bnkit.checks.rules.structure.on_the_output import OnTheOutput
from bnkit.checks.rules.structure.shared import Shared
from bnkit.checks.rules.structure.small_eps import SmallEps
from bnkit.checks.rules.structure.stripped_by_sync import StrippedBySync
from bnkit.checks.rules.structure.two_in_a_row import TwoInARow
from bnkit.checks.rules.structure.useless_bias import UselessBias

RULES: tuple[type[Rule], ...] = (
    UselessBias,
    AfterActivation,
    TwoInARow,
    OnTheOutput,
    DropoutBefore,
    Shared,
    NeverRuns,
    SmallEps,
    HalfPrecision,
    StrippedBySync,
    LargeMomentum,
)
