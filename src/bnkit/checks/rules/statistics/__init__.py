"""Rules about running statistics, gamma and beta, and about the data: BN2xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.statistics.bn201_stale_running_stats import StaleRunningStats
from bnkit.checks.rules.statistics.bn202_never_updated import NeverUpdated
from bnkit.checks.rules.statistics.bn203_non_finite_running_stats import NonFiniteRunningStats
from bnkit.checks.rules.statistics.bn204_no_variance import NoVariance
from bnkit.checks.rules.statistics.bn205_extreme_gamma import ExtremeGamma
from bnkit.checks.rules.statistics.bn206_few_values import FewValues
from bnkit.checks.rules.statistics.bn207_different_batches import DifferentBatches
from bnkit.checks.rules.statistics.bn208_updated_twice import UpdatedTwice

RULES: tuple[type[Rule], ...] = (
    StaleRunningStats,
    NeverUpdated,
    NonFiniteRunningStats,
    NoVariance,
    ExtremeGamma,
    FewValues,
    DifferentBatches,
    UpdatedTwice,
)
