"""What stands in the place of an activation that the batch norm before it applies."""

from __future__ import annotations

from torch import nn


class DoneBefore(nn.Identity):
    """Returns its input. The activation that stood here is kept, to be put back: it is no submodule.

    Attributes:
        activation: The module.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self._kept = (activation,)

    @property
    def activation(self) -> nn.Module:
        return self._kept[0]

    def extra_repr(self) -> str:
        """What is done before."""
        return repr(self._kept[0])
