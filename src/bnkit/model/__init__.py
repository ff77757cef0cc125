"""A user's model: finding its batch norms, and what their statistics should be."""

from bnkit.model.former_modules import register
from bnkit.model.statistics.population_statistics import batch_norms, normalising_by, population_statistics

__all__ = ["batch_norms", "normalising_by", "population_statistics"]

register()
