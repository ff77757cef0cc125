"""Rules about how batch norms are built into a model: BN1xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.structure.after_activation import AfterActivation
from bnkit.checks.structure.dropout_before import DropoutBefore
from bnkit.checks.structure.half_precision import HalfPrecision
from bnkit.checks.structure.large_momentum import LargeMomentum
from bnkit.checks.structure.never_runs import NeverRuns
from bnkit.checks.structure.on_the_output import OnTheOutput
from bnkit.checks.structure.shared import Shared
from bnkit.checks.structure.small_eps import SmallEps
from bnkit.checks.structure.stripped_by_sync import StrippedBySync
from bnkit.checks.structure.two_in_a_row import TwoInARow
from bnkit.checks.structure.useless_bias import UselessBias

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
