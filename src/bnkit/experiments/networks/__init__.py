"""The networks of a comparison: by name, from a file, or handed over as factories."""

from bnkit.experiments.networks.arms import ARMS, Arm, arm_called
from bnkit.experiments.networks.registry import ARCHITECTURES, NetworkSource, from_factories, is_built_in, sources

__all__ = ["ARCHITECTURES", "ARMS", "Arm", "NetworkSource", "arm_called", "from_factories", "is_built_in", "sources"]
