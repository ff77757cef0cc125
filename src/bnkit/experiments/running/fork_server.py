"""Imported by the server that workers are forked from: loads what each of them needs, and computes nothing.

A process that has run one parallel region has threads that a fork does not have, and waits for them for ever.
"""

from bnkit.experiments.running import worker  # noqa: F401 - and with it all that trains
from bnkit.experiments.training.optimizers import preload_optimizers

preload_optimizers()
