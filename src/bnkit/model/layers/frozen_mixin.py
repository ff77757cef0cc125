"""What is mixed into a batch norm that is to hold still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import nn

from bnkit.model.layers.deferred import Deferring

# What a frozen layer remembers, among its attributes.
REQUIRES_GRAD, MODE = "_requires_grad_before", "_mode_asked_for"
ATTRIBUTES = (REQUIRES_GRAD, MODE)


class Frozen(nn.Module):
    """Put before the class of a batch norm: it stays in evaluation mode, whatever mode it or a parent is told.

    Attributes:
        _requires_grad_before: For gamma and beta where they are frozen too ("weight", "bias"): whether they learnt.
        _mode_asked_for: The mode that it would be in.
    """

    if TYPE_CHECKING:  # annotations that are text would stop torch.jit.script
        _requires_grad_before: dict[str, bool]
        _mode_asked_for: bool

    # Properties are compiled by torch.jit.script, but for these.
    __jit_unused_properties__ = ("is_frozen",)

    @property
    def is_frozen(self) -> bool:
        """Whether the layer holds still: always."""
        return True

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what the layer holds, its activation perhaps; the layer itself stays in evaluation mode."""
        super().train(mode)
        self._mode_asked_for = mode
        self.training = False
        return self

    def reset_running_stats(self) -> None:
        """Do nothing: ``torch.optim.swa_utils.update_bn`` would otherwise set statistics to 0 and 1 that it cannot move."""

    def extra_repr(self) -> str:
        """That of the layer, and what of it is frozen."""
        frozen = "statistics, gamma, beta" if self._requires_grad_before else "statistics"
        return ", ".join(text for text in (super().extra_repr(), f"frozen={frozen!r}") if text)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        # A layer of another library that was frozen has no counter, and takes checkpoints that have one. PyTorch makes
        # one up in checkpoints without metadata, and then finds that it has no place for it.
        counter = f"{prefix}num_batches_tracked"
        has_counter = self._buffers.get("num_batches_tracked") is not None
        if not has_counter:
            state_dict.pop(counter, None)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if not has_counter and counter in unexpected:
            unexpected.remove(counter)


def bare_class(module: nn.Module) -> type[nn.Module]:
    """The class of ``module``, whether it is frozen or not, and whether or not it waits for what follows."""
    kind: type[nn.Module] = type(module)
    while (parts := vars(kind).get("_parts")) is not None and parts[0] in (Frozen, Deferring):
        kind = parts[1]
    return kind
