"""A placeholder for an activation that the preceding batch norm applies."""

from __future__ import annotations

from torch import nn


class DoneBefore(nn.Identity):
    """Returns its input. Keeps the replaced activation, which is not a submodule, so that it can be restored.

    Attributes:
        activation: The replaced module.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self._kept = (activation,)

    @property
    def activation(self) -> nn.Module:
        return self._kept[0]

    def extra_repr(self) -> str:
        """The replaced activation."""
        return repr(self._kept[0])
