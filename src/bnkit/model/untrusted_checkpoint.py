"""Read the content of a PyTorch file without running any code in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self

import torch


class Inert:
    """Placeholder for an object of any other class: it has neither the methods nor the content of that class.

    Attributes:
        name: The qualified name of the class, or of the function that creates the object.
    """

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_checkpoint(path: Path) -> Any:
    """The content of ``path`` on the CPU. Tensors, numbers, text, lists and dictionaries are read; anything else is ``Inert``.

    A Lightning checkpoint often holds hyper-parameters and callback states that are objects. These objects are not
    created; the tensors in the same file are still read.

    Raises:
        Exception: The error of ``torch.load``, if it cannot read the file.
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


def holds_modules(path: Path) -> bool:
    """Whether the file has pickled layers of ``torch.nn``, as ``torch.save(model, path)`` writes them."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of another kind of file
        return False
    return any(name.startswith("torch.nn.modules.") for name in names)


def hyper_parameters(path: Path) -> dict[str, Any]:
    """The hyper-parameters that Lightning's ``save_hyperparameters`` stored in the checkpoint ``path``."""
    if not path.is_file() or path.suffix == ".safetensors":
        return {}
    try:
        content = read_checkpoint(path)
    except Exception:  # loading the weights raises a better message
        return {}
    values = content.get("hyper_parameters") if isinstance(content, dict) else None
    return {key: value for key, value in values.items() if isinstance(key, str)} if isinstance(values, dict) else {}
