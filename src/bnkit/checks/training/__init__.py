"""Rules about how a model with batch norm is set up for training: BN3xx."""

from __future__ import annotations

from bnkit.checks.rule import Rule
from bnkit.checks.training.accumulation import Accumulation
from bnkit.checks.training.averaged import Averaged
from bnkit.checks.training.last_batch import LastBatch
from bnkit.checks.training.thawed import Thawed
from bnkit.checks.training.weight_decay import WeightDecay
from bnkit.checks.training.without_sync import WithoutSync

RULES: tuple[type[Rule], ...] = (WeightDecay, Thawed, LastBatch, Accumulation, WithoutSync, Averaged)
