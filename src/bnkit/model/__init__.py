"""Inspect and change models: find their batch norms, and compute the population statistics of these."""

from bnkit.model.former_modules import register
from bnkit.model.statistics.layers_with_statistics import batch_norms
from bnkit.model.statistics.measure_population_statistics import normalising_by, population_statistics

__all__ = ["batch_norms", "normalising_by", "population_statistics"]

register()
