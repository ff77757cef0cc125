"""Rules about how a model with batch norm is set up for training: BN3xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.rules.training.accumulation import Accumulation
from bnkit.checks.rules.training.last_batch import LastBatch
from bnkit.checks.rules.training.unfrozen_by_train import UnfrozenByTrain
from bnkit.checks.rules.training.weight_average_stale_stats import WeightAverageStaleStats
from bnkit.checks.rules.training.weight_decay import WeightDecay
from bnkit.checks.rules.training.without_sync import WithoutSync

RULES: tuple[type[Rule], ...] = (
    WeightDecay,
    UnfrozenByTrain,
    LastBatch,
    Accumulation,
    WithoutSync,
    WeightAverageStaleStats,
)
