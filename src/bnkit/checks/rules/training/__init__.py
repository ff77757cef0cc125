"""Rules about the training set-up of a model with batch norm: BN3xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.training.bn301_weight_decay import WeightDecay
from bnkit.checks.rules.training.bn302_unfrozen_by_train import UnfrozenByTrain
from bnkit.checks.rules.training.bn303_last_batch import LastBatch
from bnkit.checks.rules.training.bn304_accumulation import Accumulation
from bnkit.checks.rules.training.bn305_without_sync import WithoutSync
from bnkit.checks.rules.training.bn306_weight_average_stale_stats import WeightAverageStaleStats

RULES: tuple[type[Rule], ...] = (
    WeightDecay,
    UnfrozenByTrain,
    LastBatch,
    Accumulation,
    WithoutSync,
    WeightAverageStaleStats,
)
