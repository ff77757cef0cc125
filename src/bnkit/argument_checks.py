"""Checks of arguments: each raises at once, and its message quotes the value."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from bnkit.errors import SettingsError


def check_bool(name: str, value: Any) -> None:
    """Raise unless ``value`` is True or False.

    Raises:
        SettingsError: If it is not.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected True or False")


def check_int(name: str, value: Any, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``; bools and floats are not.

    Raises:
        SettingsError: If it is not.

    Examples:
        >>> check_int("num_groups", "4")
        Traceback (most recent call last):
        bnkit.errors.SettingsError: num_groups='4' is a str; expected a whole number from 1
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected a whole number from {minimum}")
    if value < minimum:
        raise SettingsError(f"{name}={value!r}; expected a whole number from {minimum}")


def check_eps(value: Any) -> None:
    """Raise unless ``value`` is a positive finite number.

    Raises:
        SettingsError: If it is not.
    """
    check_number("eps", value, "a number above 0")
    if not 0 < value < math.inf:
        raise SettingsError(f"eps={value!r}; expected a number above 0")


def check_momentum(value: Any) -> None:
    """Raise unless ``value`` is a number from 0 to 1, or None for the cumulative average.

    Raises:
        SettingsError: If it is not.
    """
    if value is None:
        return
    check_number("momentum", value, "a number from 0 to 1, or None")
    if not 0 <= value <= 1:
        raise SettingsError(f"momentum={value!r}; expected a number from 0 to 1, or None")


def check_callable(name: str, value: Any) -> None:
    """Raise unless ``value`` is callable or None.

    Raises:
        SettingsError: If it is not.
    """
    if value is not None and not callable(value):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected a function, or None")


def check_process_group(value: Any) -> None:
    """Raise unless ``value`` can be a process group of ``torch.distributed``, or None.

    Raises:
        SettingsError: If it is a number or a collection.
    """
    if isinstance(value, (Real, Collection)):  # PyTorch represents "not a member of the group" by a number
        raise SettingsError(
            f"process_group={value!r} is {_type_name(value)}; expected a group of torch.distributed, or None"
        )


def check_device(value: Any) -> None:
    """Raise unless ``value`` names a device of this machine.

    Raises:
        SettingsError: If it does not.
    """
    try:
        torch.empty(0, device=value)
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:100]
        raise SettingsError(
            f"device={value!r} cannot be used ({reason}); expected an available device, such as 'cpu' or 'cuda:0'"
        ) from error


def check_number(name: str, value: Any, expected: str) -> None:
    """Raise unless ``value`` is a real number; bools are not. ``expected`` completes the message.

    Raises:
        SettingsError: If it is not.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected {expected}")


def _type_name(value: Any) -> str:
    return f"a {type(value).__name__}" if value is not None else "not set"
