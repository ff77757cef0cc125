"""Third-party packages that are installed by an extra."""

from __future__ import annotations

from importlib.util import find_spec

from bnkit.errors import SettingsError


def require_extra(what: str, module: str, extra: str) -> None:
    """Make sure that the package ``module``, which ``what`` needs, is installed; it is not imported yet.

    Raises:
        SettingsError: The package is not installed; the message has the command that installs it.

    Examples:
        >>> require_extra("a logger", "not_there", "mlflow")
        Traceback (most recent call last):
        ...
        bnkit.errors.SettingsError: a logger needs not_there, which is not installed; pip install 'bnkit[mlflow]'
    """
    if find_spec(module) is None:
        raise SettingsError(f"{what} needs {module}, which is not installed; pip install 'bnkit[{extra}]'")
