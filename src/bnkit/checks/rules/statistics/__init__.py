"""Rules about running statistics, gamma and beta, and about the data: BN2xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.statistics.different_batches import DifferentBatches
from bnkit.checks.rules.statistics.few_values import FewValues
from bnkit.checks.rules.statistics.gamma import Gamma
from bnkit.checks.rules.statistics.moving_average import MovingAverage
from bnkit.checks.rules.statistics.never_updated import NeverUpdated
from bnkit.checks.rules.statistics.no_variance import NoVariance
from bnkit.checks.rules.statistics.poisoned import Poisoned
from bnkit.checks.rules.statistics.updated_twice import UpdatedTwice

RULES: tuple[type[Rule], ...] = (
    MovingAverage,
    NeverUpdated,
    Poisoned,
    NoVariance,
    Gamma,
    FewValues,
    DifferentBatches,
    UpdatedTwice,
)
