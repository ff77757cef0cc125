"""Rules about running statistics, gamma and beta, and about the data: BN2xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.statistics.different_batches import DifferentBatches
from bnkit.checks.rules.statistics.extreme_gamma import ExtremeGamma
from bnkit.checks.rules.statistics.few_values import FewValues
from bnkit.checks.rules.statistics.never_updated import NeverUpdated
from bnkit.checks.rules.statistics.no_variance import NoVariance
from bnkit.checks.rules.statistics.non_finite_running_stats import NonFiniteRunningStats
from bnkit.checks.rules.statistics.stale_running_stats import StaleRunningStats
from bnkit.checks.rules.statistics.updated_twice import UpdatedTwice

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
