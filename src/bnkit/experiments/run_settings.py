"""The settings of a run, and the grid of their values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

_FROZEN = ConfigDict(frozen=True, extra="forbid")

_Rate = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Probability = Annotated[float, Field(strict=True, ge=0, lt=1)]
_NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


def _default_or_probability(value: object) -> object:
    """``value`` if it is "default" or a probability below 1; otherwise raise."""
    if value == "default":
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError("expected 'default', or a number from 0 to below 1")


def _default_or_positive(value: object) -> object:
    """``value`` if it is "default" or a positive finite number; otherwise raise."""
    if value == "default":
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ValueError("expected 'default', or a number above 0")


def _default_or_share(value: object) -> object:
    """``value`` if it is "default" or a number from 0 to 1; otherwise raise."""
    if value == "default":
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError("expected 'default', or a number from 0 to 1")


class Settings(BaseModel):
    """One point of the grid: all settings of a run but the network and the seed.

    The first five are the course's, in its order. "default" for ``activation``, ``dropout``, ``order``, ``bn_eps`` and
    ``bn_momentum``, and 0 for ``depth`` and ``width``, keep the network's own. ``order`` puts batch norm before or after the
    activation; ``init_scale`` multiplies the initial weights of all convolutions and linear layers; ``memory_format`` is that of
    images between the layers. ``momentum`` is the optimizer's; ``bn_eps`` and ``bn_momentum`` are those of all batch norms, and
    None in runs on which they have no effect.
    """

    model_config = _FROZEN

    lr: _Rate = 0.01
    batch_size: Annotated[int, Field(strict=True, ge=1)] = 64
    num_workers: Annotated[int, Field(strict=True, ge=0)] = 0
    device: Annotated[str, Field(strict=True, pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    trainset: Literal["normal", "not_normal", "symmetric"] = "normal"
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: _Probability = 0.0
    weight_decay: _NonNegative = 0.0
    init: Literal["default", "xavier", "kaiming"] = "default"
    init_scale: _Rate = 1.0
    activation: Literal["default", "relu", "leaky_relu", "sigmoid", "silu", "tanh", "gelu"] = "default"
    depth: Annotated[int, Field(strict=True, ge=0)] = 0
    width: Annotated[int, Field(strict=True, ge=0)] = 0
    dropout: Annotated[Literal["default"] | float, BeforeValidator(_default_or_probability)] = "default"
    order: Literal["default", "before", "after"] = "default"
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "constant"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    bn_eps: Annotated[Literal["default"] | float | None, BeforeValidator(_default_or_positive)] = "default"
    bn_momentum: Annotated[Literal["default"] | float | None, BeforeValidator(_default_or_share)] = "default"


def _as_list(values: object) -> object:
    return values if isinstance(values, (list, tuple)) else [values]


def _values_of(name: str) -> Any:
    field = Settings.model_fields[name]
    inner: Any = field.annotation
    if field.metadata:  # pydantic moves the constraints of an Annotated field there
        inner = Annotated[(inner, *field.metadata)]
    return Annotated[tuple[inner, ...], BeforeValidator(_as_list), Field(min_length=1)]


# The keys of Settings, each with a tuple of values. Generated, so that a key is defined once.
_FIELDS: dict[str, Any] = {name: (_values_of(name), (field.default,)) for name, field in Settings.model_fields.items()}
_GridFields: Any = create_model("_GridFields", __config__=_FROZEN, **_FIELDS)


class Grid(_GridFields):  # type: ignore[misc]
    """The values of each setting, whose product gives the runs; a missing key has the default as its only value."""

    @property
    def explicit_keys(self) -> tuple[str, ...]:
        """The keys that the user set, in the order of Settings."""
        return tuple(name for name in Settings.model_fields if name in self.model_fields_set)

    def points(self) -> Iterator[Settings]:
        """All combinations; the last key varies fastest."""
        names = tuple(Settings.model_fields)
        for values in product(*(dict.fromkeys(getattr(self, name)) for name in names)):
            yield Settings.model_construct(**dict(zip(names, values, strict=True)))
