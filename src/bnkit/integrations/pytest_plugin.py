"""A plugin for pytest: the fixture ``bnkit_healthy``, and the option ``--bnkit-check``. Loads no torch until one of them is used."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTION = "--bnkit-check"


@pytest.fixture
def bnkit_healthy() -> Iterator[Callable[..., None]]:
    """``bnkit.assert_healthy``: called with a model, it fails the test with what ``bnkit.check`` finds.

    Findings have the file and line of the layers that the test made. An example or batches are given as to
    ``bnkit.assert_healthy``::

        def test_my_network(bnkit_healthy):
            bnkit_healthy(make_network(), example_inputs=torch.randn(8, 3, 32, 32), fail_on="error")
    """
    from bnkit.checks.check import assert_healthy
    from bnkit.model.inspect.construction_lines import record_construction

    def healthy(*arguments: Any, **keywords: Any) -> None:
        __tracebackhide__ = True
        try:
            assert_healthy(*arguments, **keywords)
        except AssertionError as error:
            raise AssertionError(str(error)) from None  # without the source of bnkit in the report

    with record_construction():
        yield healthy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--bnkit-check``."""
    parser.getgroup("bnkit").addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="'FACTORY --input 8x3x32x32'",
        help="add a test that runs `bnkit check` with these arguments; may be repeated",
    )


@pytest.hookimpl(tryfirst=True)  # so that -k and -m select among them too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each ``--bnkit-check``."""
    items += [
        CheckItem.from_parent(session, name=f"bnkit check {arguments}", arguments=arguments)
        for arguments in config.getoption(_OPTION)
    ]


class CheckError(Exception):
    """``bnkit check`` found something, or could not check; the message is what it printed."""


class CheckItem(pytest.Item):
    """A test that runs ``bnkit check`` in a separate process, as on the command line.

    Args:
        arguments: The arguments of ``bnkit check``, quoted as for a shell.
    """

    def __init__(self, *, arguments: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        try:
            self._arguments = shlex.split(arguments)
        except ValueError as error:
            raise pytest.UsageError(f"{_OPTION} {arguments}: {error}; expected arguments of `bnkit check`") from error

    def runtest(self) -> None:
        """Run the command.

        Raises:
            CheckError: The exit status is not 0.
        """
        command = [sys.executable, "-m", "bnkit.cli.main", "check", *self._arguments]
        # The tested project's modules may only be importable through pytest's settings.
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            command,
            cwd=self.config.invocation_params.dir,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode != 0:
            raise CheckError((done.stdout + done.stderr).strip())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The output of the command, without a traceback."""
        return str(excinfo.value) if isinstance(excinfo.value, CheckError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The file of the factory, and the name of the test."""
        file = Path(self._arguments[0].rpartition(":")[0] if self._arguments else "")
        return file if file.is_file() else self.config.invocation_params.dir, None, self.name
