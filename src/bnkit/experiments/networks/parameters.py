"""The settings that a factory of a user's own takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from bnkit.experiments.settings import Settings

# What a factory of a user's own may ask for by name. At their default they are left to the network.
OPTIONS = ("activation", "depth", "width", "dropout", "order")


def factory_arguments(settings: Settings, parameters: Mapping[str, bool | None]) -> dict[str, object]:
    """The settings that a factory takes: those that the grid sets, and those that it has no default for."""
    set_by_grid = {name for name in parameters if getattr(settings, name) != Settings.model_fields[name].default}
    without = {"dropout": 0.0}  # "default" is not a rate
    return {
        name: getattr(settings, name) if name in set_by_grid else without.get(name, getattr(settings, name))
        for name, is_required in parameters.items()
        if is_required or name in set_by_grid
    }


def factory_parameters(factory: Callable[..., object]) -> dict[str, bool | None]:
    """Which settings a factory takes, and whether it has to be given them; None of those that it takes as any keyword."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    found: dict[str, bool | None] = dict.fromkeys(OPTIONS if takes_any else ())
    for name in OPTIONS:
        parameter = parameters.get(name)
        if parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found[name] = parameter.default is parameter.empty
    return found
