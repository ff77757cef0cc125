"""Settings that a user gives: refused at once, with what arrived, where their type or value means nothing."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from bnkit.errors import SettingsError


def check_bool(name: str, value: Any) -> None:
    """Refuse ``value`` unless it is True or False.

    Raises:
        SettingsError: It is something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected True or False")


def check_int(name: str, value: Any, minimum: int = 1) -> None:
    """Refuse ``value`` unless it is a whole number from ``minimum``.

    Raises:
        SettingsError: It is something else, as True or 2.0.

    Example:
        >>> check_int("num_groups", "4")
        Traceback (most recent call last):
        bnkit.errors.SettingsError: num_groups='4' is a str; expected a whole number from 1
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected a whole number from {minimum}")
    if value < minimum:
        raise SettingsError(f"{name}={value!r}; expected a whole number from {minimum}")


def check_eps(value: Any) -> None:
    """Refuse ``value`` unless it is a number above 0.

    Raises:
        SettingsError: It is something else.
    """
    check_number("eps", value, "a number above 0")
    if not 0 < value < math.inf:
        raise SettingsError(f"eps={value!r}; expected a number above 0")


def check_momentum(value: Any) -> None:
    """Refuse ``value`` unless it is a number from 0 to 1, or None for the cumulative average.

    Raises:
        SettingsError: It is something else.
    """
    if value is None:
        return
    check_number("momentum", value, "a number from 0 to 1, or None")
    if not 0 <= value <= 1:
        raise SettingsError(f"momentum={value!r}; expected a number from 0 to 1, or None")


def check_callable(name: str, value: Any) -> None:
    """Refuse ``value`` unless it can be called, or is None.

    Raises:
        SettingsError: It is something else.
    """
    if value is not None and not callable(value):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected a function, or None")


def check_process_group(value: Any) -> None:
    """Refuse ``value`` unless it is a group of processes of ``torch.distributed``, or None.

    Raises:
        SettingsError: It is something else.
    """
    if isinstance(value, (Real, Collection)):  # outside of a group, PyTorch gives a number for it
        raise SettingsError(
            f"process_group={value!r} is {_type_name(value)}; expected a group of torch.distributed, or None"
        )


def check_device(value: Any) -> None:
    """Refuse ``value`` unless it names a device of this machine.

    Raises:
        SettingsError: It does not.
    """
    try:
        torch.empty(0, device=value)
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:100]
        raise SettingsError(
            f"device={value!r} cannot be used ({reason}); expected a device that is there, as 'cpu' or 'cuda:0'"
        ) from error


def check_number(name: str, value: Any, expected: str) -> None:
    """Refuse ``value`` unless it is a real number; ``expected`` says which in the message.

    Raises:
        SettingsError: It is something else, as True or "0.1".
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise SettingsError(f"{name}={value!r} is {_type_name(value)}; expected {expected}")


def _type_name(value: Any) -> str:
    return f"a {type(value).__name__}" if value is not None else "not set"
