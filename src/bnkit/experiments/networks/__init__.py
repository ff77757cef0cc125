"""The networks of a comparison: by name, from a file, or passed as factories."""

from bnkit.experiments.networks.normalization_kinds import ARMS, Arm, find_arm
from bnkit.experiments.networks.registry import (
    ARCHITECTURES,
    NetworkSource,
    from_factories,
    is_built_in,
    network_sources,
)

__all__ = [
    "ARCHITECTURES",
    "ARMS",
    "Arm",
    "NetworkSource",
    "find_arm",
    "from_factories",
    "is_built_in",
    "network_sources",
]
