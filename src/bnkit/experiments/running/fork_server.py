"""Imported by the server that workers are forked from: it loads their modules, and must not compute.

After a parallel region, a process has threads that a fork lacks, and the fork would wait for them for ever.
"""

from bnkit.experiments.running import worker_loop  # noqa: F401 - and with it all that trains
from bnkit.experiments.training.optimizers import preload_optimizers

preload_optimizers()
