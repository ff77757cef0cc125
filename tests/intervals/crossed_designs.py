"""Right and wrong answers of two networks, drawn at random: seeds, examples and both together move them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri


@dataclass(frozen=True)
class Design:
    """How answers come about: an answer is right where a sum of normal draws, of variance 1 in all, is above a threshold.

    Attributes:
        seeds, examples: How many.
        accuracies: Of the two networks, in the mean over all seeds and examples.
        difficulty: The share of the variance that an example has for both networks alike.
        preference: That which it has for each network of its own.
        luck: That which a seed has, for each network of its own. The rest is of every answer alone.
        collapsed: The chance that a run of the second network ends at a tenth of its accuracy.
    """

    seeds: int
    examples: int
    accuracies: tuple[float, float]
    difficulty: float = 0.7
    preference: float = 0.1
    luck: float = 0.001
    collapsed: float = 0.0

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, float, float]:
        """Differences (seeds, examples); and the true difference for these examples, and for new ones."""
        shape = self.seeds, self.examples
        alone = 1 - self.difficulty - self.preference - self.luck
        shared = generator.standard_normal(self.examples, dtype=np.float32) * np.float32(self.difficulty**0.5)
        right, expected = [], []
        for accuracy in self.accuracies:
            own = generator.standard_normal(self.examples, dtype=np.float32) * np.float32(self.preference**0.5)
            of_example = shared + own + np.float32(ndtri(accuracy))
            of_seed = generator.standard_normal((self.seeds, 1), dtype=np.float32) * np.float32(self.luck**0.5)
            rest = generator.standard_normal(shape, dtype=np.float32) * np.float32(alone**0.5)
            right.append(of_example + of_seed + rest > 0)
            expected.append(float(ndtr(of_example / (alone + self.luck) ** 0.5).mean()))
        if self.collapsed:
            lost = generator.random((self.seeds, 1)) < self.collapsed
            right[1] &= ~lost | (generator.random(shape) < 0.1)
        kept = 1 - 0.9 * self.collapsed
        these = kept * expected[1] - expected[0]
        new = kept * self.accuracies[1] - self.accuracies[0]
        return right[1].astype(np.int8) - right[0], these, new
