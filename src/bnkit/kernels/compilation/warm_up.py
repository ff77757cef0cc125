"""Compiles loops ahead of time, and verifies in a new process that they are found on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import Timeout

from bnkit.errors import KernelError
from bnkit.kernels import activation
from bnkit.kernels.compilation import background, compiled_loops
from bnkit.kernels.compilation.compile_request import CompileRequest, request_from
from bnkit.kernels.kernel_interface import BatchNormArgs

_PROVE = "prove"
_NOT_FOUND = "the loops that Numba compiled are not in its cache; is its folder (NUMBA_CACHE_DIR) writable?"


class WarmUpResult(NamedTuple):
    """The result of a request; ``error`` is empty if its loops are on disk."""

    request: CompileRequest
    error: str


def usual_requests(*, everything: bool = False) -> list[CompileRequest]:
    """The requests of most networks: float32, both layouts, with and without ReLU and a residual; or all dtypes and activations."""
    shapes = (
        (2, 8, 32, 32),
        (64, 8, 32, 32),
        (256, 64, 16, 16),
        (64, 256, 8, 8),
        (4096, 64),
        (2, 64, 4, 4),
        (128, 64, 32, 32),
    )
    kinds = ("float32", "float64", "float16", "bfloat16") if everything else ("float32",)
    activations = (None, *activation.FUNCTIONS) if everything else (None, "relu")
    by_name: dict[str, CompileRequest] = {}
    for kind in kinds:
        for name in activations:
            for shape in shapes:
                for is_contiguous in (True, False) if len(shape) > 2 else (True,):
                    for has_residual in (False, True) if name in ("relu", None) else (False,):
                        call = CompileRequest("layer", shape, kind, is_contiguous, name, has_residual)
                        by_name.setdefault(call.name, call)
    recompute = CompileRequest("recompute", shapes[0], "float32")
    return [*by_name.values(), recompute]


def wanted_requests(*, everything: bool = False) -> list[CompileRequest]:
    """The queued requests of this machine that are not compiled, and the usual ones.

    Raises:
        KernelError: If Numba is not installed.
    """
    _require_numba()
    wanted = [*compiled_loops.requests(), *usual_requests(everything=everything)]
    return list({request.name: request for request in wanted}.values())


def warm_up(
    requests: Iterable[CompileRequest], on_done: Callable[[CompileRequest], object] = str
) -> list[WarmUpResult]:
    """Compile the loops of ``requests``, which takes some seconds each, and record which are on disk.

    Args:
        requests: The requests; those already on disk take no time.
        on_done: Called with each as soon as it is compiled.

    Raises:
        KernelError: If Numba is not installed, or its folder is not writable.
    """
    _require_numba()
    from bnkit.kernels.compilation.compile_warning import silence  # imports Numba, which is installed here

    silence()
    errors = {}
    requests = list(requests)
    for request in requests:
        if compiled_loops.state_of(request.name) != "":
            errors[request] = _compile(request)
        on_done(request)
    folders = prove([request for request, error in errors.items() if not error])
    for request, error in errors.items():
        where = folders.get(request.name, "")
        errors[request] = error or ("" if where else _NOT_FOUND)
        try:
            compiled_loops.note(request.name, Path(where), errors[request])
        except OSError as cause:
            raise KernelError(
                f"cannot write to {compiled_loops.folder()} ({cause}); set NUMBA_CACHE_DIR to a folder of yours"
            ) from cause
    return [WarmUpResult(request, errors.get(request, "")) for request in requests]


def _require_numba() -> None:
    if not compiled_loops.is_numba_installed():
        raise KernelError("Numba, which compiles the loops, is not installed; pip install 'bnkit[fast]'")


def prove(requests: Sequence[CompileRequest]) -> dict[str, str]:
    """The names of the requests whose loops a new process finds on disk, with the folder of each."""
    if not requests:
        return {}
    finished = subprocess.run(
        [*background.command(), _PROVE], input=json.dumps([request._asdict() for request in requests]), capture_output=True,
        text=True, check=False, env={**os.environ, "BNKIT_COMPILE": "off"},
    )  # fmt: skip
    return json.loads(finished.stdout) if finished.returncode == 0 else {}


def main() -> None:
    """Compile queued requests until none are left; or print which of the calls on standard input have loops on disk."""
    torch.set_num_threads(1)
    if _PROVE in sys.argv:
        folders = {}
        for request in map(request_from, json.load(sys.stdin)):
            if not _compile(request) and (where := _found_in()):
                folders[request.name] = where
        sys.stdout.write(json.dumps(folders))
        return
    with suppress(Timeout), background.lock():  # otherwise another process is compiling
        while requests := compiled_loops.requests():
            warm_up(requests)


def _compile(request: CompileRequest) -> str:
    """Run the call on dummy numbers, and return the error, or an empty string."""
    try:
        _run(request)
    except Exception as error:  # any error of the compiler
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


_seen = 0


def _found_in() -> str:
    """The folder in which the loops of the last call were found; empty if one of them was compiled."""
    global _seen  # noqa: PLW0603
    from bnkit.kernels.cpu.loop_call import run
    from bnkit.kernels.cpu.numba_compile import compiled_here

    is_found = len(compiled_here) == _seen and not sum(run.stats.cache_misses.values())
    _seen = len(compiled_here)
    return str(run.stats.cache_path) if is_found else ""


def _run(request: CompileRequest) -> None:
    # Imported here, because these import Numba.
    from bnkit.kernels.cpu import aten_affine_loops, launch, sync_passes
    from bnkit.kernels.cpu.kernel import KERNEL

    if request.purpose == "recompute":
        aten_affine_loops.compile_all()
        return
    request = request.smallest
    x = torch.randn(request.shape, dtype=torch.float64).to(request.dtype)
    if not request.is_contiguous:
        x = x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if request.purpose == "moments":
        launch.moments_of_planes(x)
        return
    channels = x.shape[1]
    weight, bias = (torch.ones(channels, dtype=torch.float64).to(_parameter_dtype(x)) for _ in range(2))
    residual = torch.randn_like(x) if request.has_residual else None
    mask = torch.ones(x.shape[0], 1, *x.shape[2:], dtype=torch.bool) if request.has_mask else None
    args = BatchNormArgs(
        x, None, None, weight, bias, True, 0.0, 1e-5, request.activation, residual, mask, x.numel() // channels
    )
    if request.purpose == "sync":
        mean, variance = sync_passes.part_moments(x)
        args = args._replace(running_mean=mean, running_var=variance, training=False)
        output = sync_passes.part_forward(args)
        sync_passes.part_backward(output, args, output).finish_backward(mean, variance)
        return
    x.requires_grad_()
    y = KERNEL.batch_stats_forward(args).output
    torch.autograd.grad(y, x, torch.randn_like(y))
    with torch.no_grad():
        statistics = torch.zeros_like(weight), torch.ones_like(weight)
        KERNEL.running_stats_forward(
            args._replace(running_mean=statistics[0], running_var=statistics[1], training=False, mask=None)
        )


def _parameter_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32


if __name__ == "__main__":
    main()
