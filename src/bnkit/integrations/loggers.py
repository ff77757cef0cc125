"""The loggers that a comparison selects by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bnkit.errors import SettingsError
from bnkit.message_parts import unknown_name

if TYPE_CHECKING:
    from bnkit.experiments.callbacks import Callback
    from bnkit.integrations.run_logger import RunLogger

# The module of each logger. In the results folder, each writes into the folder of its name.
_HOMES = {
    "tensorboard": ("bnkit.integrations.tensorboard", "TensorBoard"),
    "wandb": ("bnkit.integrations.wandb_logger", "WandbLogger"),
    "mlflow": ("bnkit.integrations.mlflow_logger", "MlflowLogger"),
}


class Loggers(NamedTuple):
    """Loggers as callbacks.

    Attributes:
        here: The loggers of figures, for this process.
        training: The loggers that read models, for the processes that train.
    """

    here: tuple[RunLogger, ...] = ()
    training: tuple[Callback, ...] = ()

    def close(self) -> None:
        """End the runs that are still open."""
        for logger in self.here:
            logger.close()


def logger_names(log: str | Iterable[str]) -> tuple[str, ...]:
    """The names in ``log``, each once; several may stand in one text, as ``"wandb,mlflow"``.

    Raises:
        SettingsError: A name is unknown.

    Examples:
        >>> logger_names("wandb, mlflow,wandb")
        ('wandb', 'mlflow')
    """
    if not isinstance(log, str) and not all(isinstance(name, str) for name in log):
        raise SettingsError(f"log={log!r}; expected names of loggers: {', '.join(_HOMES)}")
    texts = [log] if isinstance(log, str) else list(log)
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip())
    for name in names:
        if name not in _HOMES:
            raise SettingsError(unknown_name("unknown logger", name, _HOMES))
    return tuple(names)


def loggers(names: Sequence[str], folder: Path) -> Loggers:
    """The loggers called ``names``, which write into ``folder``.

    Raises:
        SettingsError: The package of a logger is not installed.
    """
    loggers = {name: getattr(importlib.import_module(_HOMES[name][0]), _HOMES[name][1])(folder) for name in names}
    training = tuple(loggers.pop(name) for name in ("tensorboard",) if name in loggers)
    return Loggers(tuple(loggers.values()), training)
