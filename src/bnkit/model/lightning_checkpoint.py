"""What a file of PyTorch holds, read without running any code in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self

import torch


class Inert:
    """Stands for an object whose class is code: it has no methods of that class and none of its content.

    Attributes:
        name: The class, or the function that would have made it, with its module.
    """

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_checkpoint(path: Path) -> Any:
    """The content of ``path`` on the CPU. Tensors, numbers, text, lists and dictionaries are read; anything else is ``Inert``.

    A checkpoint of Lightning often holds hyper-parameters and states of callbacks that are objects; the tensors beside them
    are read all the same, and the objects are not made.

    Raises:
        Exception: Whatever ``torch.load`` raises for a file that it cannot read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            try:
                names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
                kinds: list[Any] = [(type("Inert", (Inert,), {"name": name}), name) for name in names]
                with torch.serialization.safe_globals(kinds):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except Exception:
                raise error from None


def hyper_parameters(path: Path) -> dict[str, Any]:
    """Those that Lightning's ``save_hyperparameters`` has put into the checkpoint ``path``; empty where there are none."""
    if not path.is_file() or path.suffix == ".safetensors":
        return {}
    try:
        content = read_checkpoint(path)
    except Exception:  # which whoever loads the weights says better
        return {}
    found = content.get("hyper_parameters") if isinstance(content, dict) else None
    return {key: value for key, value in found.items() if isinstance(key, str)} if isinstance(found, dict) else {}
