"""The settings that a user's factory accepts as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from bnkit.experiments.run_settings import Settings

# The parameters that a user's factory may have. At their default they are not passed.
OPTIONS = ("activation", "depth", "width", "dropout", "order")


def factory_arguments(settings: Settings, parameters: Mapping[str, bool | None]) -> dict[str, object]:
    """The arguments of a factory: the settings that the grid sets, and those that it has no default for."""
    set_by_grid = {name for name in parameters if getattr(settings, name) != Settings.model_fields[name].default}
    without = {"dropout": 0.0}  # "default" is not a rate
    return {
        name: getattr(settings, name) if name in set_by_grid else without.get(name, getattr(settings, name))
        for name, is_required in parameters.items()
        if is_required or name in set_by_grid
    }


def factory_parameters(factory: Callable[..., object]) -> dict[str, bool | None]:
    """The settings that a factory accepts, and whether each is required; None for those that ``**kwargs`` accepts."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    accepted: dict[str, bool | None] = dict.fromkeys(OPTIONS if takes_any else ())
    for name in OPTIONS:
        parameter = parameters.get(name)
        if parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            accepted[name] = parameter.default is parameter.empty
    return accepted
