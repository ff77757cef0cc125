"""Plan from a trace which batch norms can be fused with the sum and activation that follow; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bnkit.kernels.activation import FUNCTIONS, LEAKY_SLOPE, MODULES
from bnkit.model.inspect.operation_types import OpType
from bnkit.model.inspect.recognise_batch_norm import recognise
from bnkit.model.inspect.trace import Operation, Trace

_NAMES = {module: name for name, module in MODULES.items()}


@dataclass(frozen=True)
class PlannedFusion:
    """What a batch norm is fused with.

    Attributes:
        takes_sum: Whether it adds the residual that its network adds to its output.
        activation: The name of the activation that it then applies, or None.
        activation_name: The name of the activation module, if the two are neighbours in a ``Sequential`` and used only there:
            then the batch norm always applies the activation. Otherwise None: the batch norm waits until the network
            applies it.
        passed_through: The modules that pass the output on, up to the sum or activation.
    """

    takes_sum: bool
    activation: str | None
    activation_name: str | None
    passed_through: tuple[str, ...]

    @property
    def detail(self) -> str:
        """The fused operations, in words."""
        steps = ["the sum"] * self.takes_sum + ([] if self.activation is None else [self.activation])
        return f"fused with {' and '.join(steps)}{'' if self.activation_name is None else f' ({self.activation_name})'}"


def plan_fusion(model: nn.Module, run: Trace, name: str) -> PlannedFusion | str:
    """The fusion of the batch norm ``name`` of ``model``, or why there is none."""
    operations = run.of_module(name)
    if not operations:
        return "it did not run on the example"
    if not all(operation.is_call for operation in operations):
        return "a function uses its weights"
    followers = [_what_follows(model, run, operation) for operation in operations]
    for one in followers:
        if isinstance(one, str):
            return one
    kinds = {(one.takes_sum, one.activation) for one in followers if not isinstance(one, str)}
    if len(kinds) > 1:
        return "its calls are followed by different operations"
    takes_sum, activation = kinds.pop()
    ends = [one.last for one in followers if not isinstance(one, str)]
    between = [
        within
        for one in followers
        if not isinstance(one, str)
        for step in one.steps
        for within in _left(step.within, one.last.within)
    ]
    activation_name = None if takes_sum else _activation_name_after(model, run, name, ends)
    return PlannedFusion(takes_sum, activation, activation_name, tuple(dict.fromkeys(between)))


@dataclass(frozen=True)
class _Following:
    takes_sum: bool
    activation: str | None
    steps: tuple[Operation, ...]
    last: Operation


def _what_follows(model: nn.Module, run: Trace, norm: Operation) -> _Following | str:
    user = _only_user(run, norm)
    if isinstance(user, str):
        return user
    if (activation := _activation(model, user)) is not None:
        return _Following(False, activation, (norm,), user)
    if user.kind is not OpType.MERGE or user.name not in ("add", "add_"):
        return f"{user.label} reads its output"
    if why_not := _why_not_added(model, run, norm, user):
        return why_not
    behind = _only_user(run, user)
    activation = None if isinstance(behind, str) else _activation(model, behind)
    if isinstance(behind, str) or activation is None:
        return _Following(True, None, (norm,), user)
    return _Following(True, activation, (norm, user), behind)


def _only_user(run: Trace, operation: Operation) -> Operation | str:
    users = list(run.users_of(operation))
    if operation.index in run.outputs:
        return "its output is that of the model"
    if len(users) != 1:
        return (
            f"its output is read by {', '.join(user.label for user in users)}" if users else "nothing reads its output"
        )
    return users[0]


def _why_not_added(model: nn.Module, run: Trace, norm: Operation, total: Operation) -> str:
    if len(total.inputs) != 2 or total.inputs[0] == total.inputs[1] or set(total.shapes) != {norm.shape}:
        return "what is added to its output is of another shape"
    if total.inputs[0] == norm.index:
        return ""
    if total.name == "add_":
        return "it is added in place to something else"
    first = total.inputs[0]
    other = run.operations[first] if first >= 0 else None
    if other is None or not other.is_call or other.kind is not OpType.NORM or other.module is None:
        return ""
    is_like = recognise(model.get_submodule(other.module)) is not None and not isinstance(_only_user(run, other), str)
    return f"the sum is for {other.module}, which is the first term" if is_like else ""


def _activation(model: nn.Module, operation: Operation) -> str | None:
    """The name that bnkit's layers have for the activation ``operation``; None if they do not support it."""
    if operation.is_call and operation.module is not None:
        return activation_name(model.get_submodule(operation.module))
    name = operation.name.rstrip("_")
    if name == "hardtanh" and operation.arguments[1:3] == (0, 6):
        return "relu6"
    if operation.kind is not OpType.ACTIVATION or name not in FUNCTIONS:
        return None
    is_usual = name != "leaky_relu" or operation.arguments[1:2] in ((), (LEAKY_SLOPE,))
    return name if is_usual else None


def activation_name(module: nn.Module) -> str | None:
    """The name that bnkit's layers have for the activation ``module``; None if they do not support it."""
    name = _NAMES.get(type(module))
    is_usual = (
        getattr(module, "negative_slope", LEAKY_SLOPE) == LEAKY_SLOPE
        and getattr(module, "approximate", "none") == "none"
    )
    return name if is_usual else None


def _left(within: str, until: str) -> list[str]:
    """The modules whose calls end between an operation inside ``within`` and one inside ``until``."""
    parts, left = within.split("."), []
    while parts and parts != [""]:
        name = ".".join(parts)
        if name == until or until.startswith(f"{name}."):
            break
        left.append(name)
        parts.pop()
    return left


def _activation_name_after(model: nn.Module, run: Trace, name: str, ends: list[Operation]) -> str | None:
    """The name of the activation's module, if only the batch norm ``name`` can run before it."""
    within, _, child = name.rpartition(".")
    parent = model.get_submodule(within)
    if type(parent).forward is not nn.Sequential.forward and not getattr(type(parent), "calls_in_order", False):
        return None
    children = list(parent._modules)
    following = children[children.index(child) + 1 :]
    next_name = f"{within}.{following[0]}" if within and following else "".join(following[:1])
    if not following or {end.module for end in ends} != {next_name} or not all(end.is_call for end in ends):
        return None
    if len(run.of_module(next_name)) != len(ends) or len(run.names[next_name]) > 1 or len(run.names[name]) > 1:
        return None
    return None if any(map(_has_hooks, (model.get_submodule(name), model.get_submodule(next_name)))) else next_name


def _has_hooks(module: nn.Module) -> bool:
    return any(
        hooks for name, hooks in vars(module).items() if name.endswith("hooks") and "state_dict" not in name and hooks
    )
