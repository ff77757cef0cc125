"""Whether kernel="auto" uses the compiled loops for a call: only if they are already compiled.

``BNKIT_COMPILE`` sets what happens otherwise: "background" (the default): this process uses PyTorch's kernel, and a
low-priority process compiles the loops for the next one; "off": no compilation; "now": the call compiles, and waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bnkit.errors import SettingsError
from bnkit.kernels.compilation import background, compiled_loops
from bnkit.kernels.compilation.compile_request import CompileRequest

VARIABLE = "BNKIT_COMPILE"
MODES = ("background", "off", "now")
# Whether calls compile at once, for every value of the variable.
_at_once = False
# The first answer holds for the whole process: training does not change its kernel halfway.
_answers: dict[str, str] = {}


@contextmanager
def compiling_at_once() -> Iterator[None]:
    """Inside, "auto" compiles loops and waits: for results that must not depend on which loops are already compiled."""
    global _at_once  # noqa: PLW0603 - one for the process
    before, _at_once = _at_once, True
    try:
        yield
    finally:
        _at_once = before


def waits_for_the_compiler() -> bool:
    """Whether ``compiling_at_once`` is active: then "auto" may choose another kernel than outside."""
    return _at_once


def why_not_ready(request: CompileRequest) -> str:
    """Why "auto" does not use the compiled loops for the request; empty if it does.

    Raises:
        SettingsError: If ``BNKIT_COMPILE`` has an unknown value.
    """
    if _at_once and compiled_loops.is_numba_installed():
        return ""
    name = request.name
    answer = _answers.get(name)
    if answer is None:
        answer = _answers[name] = _find_out(request)
    return answer


def _find_out(request: CompileRequest) -> str:
    mode = os.environ.get(VARIABLE, MODES[0])
    if mode not in MODES:
        raise SettingsError(f"the variable {VARIABLE} is {mode!r}; expected one of {', '.join(MODES)}")
    if not compiled_loops.is_numba_installed():
        return "Numba is not installed; pip install 'bnkit[fast]' brings loops that go over memory fewer times"
    if mode == "now":
        return ""
    error = compiled_loops.state_of(request.name)
    if error is not None:
        return f"the loops for {request} cannot be compiled here ({error})" if error else ""
    if mode == "background" and compiled_loops.ask_for(request) and background.start():
        return f"the loops for {request} are being compiled in the background, for the next process; `bnkit warm-up` waits for them"
    return f"the loops for {request} are not compiled; `bnkit warm-up` compiles them"
