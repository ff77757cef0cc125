"""The mixin that freezes a batch norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import nn

from bnkit.model.layers.deferred_fusion import Deferring

# The attributes in which a frozen layer stores its previous state.
REQUIRES_GRAD, MODE = "_requires_grad_before", "_mode_asked_for"
ATTRIBUTES = (REQUIRES_GRAD, MODE)


class Frozen(nn.Module):
    """Mixin before the class of a batch norm: it stays in evaluation mode, even after ``train()``.

    Attributes:
        _requires_grad_before: If gamma and beta ("weight", "bias") are frozen too, their previous ``requires_grad``.
        _mode_asked_for: The mode that it would have if it were not frozen.
    """

    if TYPE_CHECKING:  # torch.jit.script fails on annotations that are strings
        _requires_grad_before: dict[str, bool]
        _mode_asked_for: bool

    # torch.jit.script does not compile these properties.
    __jit_unused_properties__ = ("is_frozen",)

    @property
    def is_frozen(self) -> bool:
        """Whether the layer is frozen: always True."""
        return True

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the children, such as an activation; the layer itself stays in evaluation mode."""
        super().train(mode)
        self._mode_asked_for = mode
        self.training = False
        return self

    def reset_running_stats(self) -> None:
        """Do nothing: ``torch.optim.swa_utils.update_bn`` would reset the statistics and could not update them."""

    def extra_repr(self) -> str:
        """The arguments of the layer, and which parts are frozen."""
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
        # A frozen layer of another library has no counter, but must load checkpoints with one. For checkpoints without
        # metadata, PyTorch adds a counter, and then reports it as unexpected.
        counter = f"{prefix}num_batches_tracked"
        has_counter = self._buffers.get("num_batches_tracked") is not None
        if not has_counter:
            state_dict.pop(counter, None)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if not has_counter and counter in unexpected:
            unexpected.remove(counter)


def bare_class(module: nn.Module) -> type[nn.Module]:
    """The class of ``module`` without the mixins for freezing and deferring."""
    kind: type[nn.Module] = type(module)
    while (parts := vars(kind).get("_parts")) is not None and parts[0] in (Frozen, Deferring):
        kind = parts[1]
    return kind
