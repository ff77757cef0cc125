"""The identities of bnkit's own networks in a plan. Needs no torch, unlike the networks themselves."""

from __future__ import annotations

from bnkit.experiments.experiment import NetworkIdentity

ARCHITECTURE_NAMES = ("two-cnn", "lenet", "simple-cnn", "mlp", "residual-mlp", "resnet")
# The arms, and the kernel of bnkit's layers in them. Not "auto": everything that could change a result belongs to the plan.
ARM_KERNELS = {"no_batch_norm": "", "batch_norm": "aten", "reference": "reference", "torch": "", "group_norm": ""}


def key_prefix(network: str, *, is_alone: bool) -> str:
    """The prefix of an arm in the key of a network: empty, or the network if there are several."""
    return "" if is_alone else f"{network.rsplit(':', maxsplit=1)[-1]}."


def built_in_identity(key: str, network: str, arm: str) -> NetworkIdentity:
    """The identity of the network of that name in that arm."""
    return NetworkIdentity(key=key, identity=f"{network}/{arm}", kernel=ARM_KERNELS[arm])
