"""The Triton kernels compiled for GPUs that are not there: what the passes would launch, without launching it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from bnkit.kernels.gpu import backward, forward, launch
from bnkit.kernels.kernel_interface import BatchNormArgs

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """A kernel, and what it would be started with."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int

    def compiled(self, target: GPUTarget) -> Any:
        """What Triton makes of it: registers are in ``.metadata``, or in the text of ``.asm``."""
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = _POINTERS[value.dtype]
                attributes[index,] = [["tt.divisibility", 16]]  # as tensors of PyTorch are aligned
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        source = ASTSource(self.kernel, signature, constants, attributes)
        return triton.compile(source, target=target, options={"num_warps": self.warps, "enable_fp_fusion": True})


class _Recorder:
    def __init__(self, kernel: JITFunction, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def start(*arguments: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
            assert enable_fp_fusion
            names = [parameter.name for parameter in self.kernel.params]
            known = dict(zip(names, arguments, strict=False)) | constants
            assert set(known) == set(names)
            self.launches.append(Launch(self.kernel, grid, known, num_warps))

        return start


def launches_of(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    last: bool = False,
    activation: str | None = "relu",
    adds: bool = False,
    masked: bool = False,
    moves: bool = True,
) -> list[Launch]:
    """What a forward and a backward pass over a tensor of ``shape`` would start; it is nowhere, so it may be large."""
    launches: list[Launch] = []
    with monkeypatch.context() as patched:
        for module in (forward, backward):
            for name, kernel in vars(module).items():
                if isinstance(kernel, JITFunction) and re.match("(for|back)ward_", name):
                    patched.setattr(module, name, _Recorder(kernel, launches))
        patched.setattr(launch, "_on", lambda x: torch.device("meta"))
        x = torch.empty(shape, dtype=dtype, device="meta")
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        number = torch.float64 if dtype == torch.float64 else torch.float32
        weight, bias, mean, var = (torch.empty(shape[1], dtype=number, device="meta") for _ in range(4))
        statistics = torch.empty(6, shape[1], dtype=torch.float64, device="meta")
        mask = torch.empty(shape[0], 1, *shape[2:], dtype=torch.bool, device="meta") if masked else None
        other = torch.empty_like(x) if adds else None
        count = x.numel() // shape[1]
        counter = torch.zeros((), dtype=torch.int64, device="meta")
        buffers = (mean, var) if moves else (None, None)
        args = BatchNormArgs(
            x, *buffers, weight, bias, True, 0.1, 1e-5, activation, other, mask, count, counter if moves else None
        )
        launch.forward(args, statistics, float64_compute=False)
        launch.backward(x, args, None, statistics)
    return launches


def resources(compiled: Any) -> dict[str, int]:
    """Registers of a thread, and bytes of memory of its own (what is spilled), as NVIDIA's tool reads them off the code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as code:
        code.write(compiled.asm["cubin"])
        code.flush()
        tool = [str(knobs.nvidia.cuobjdump.path), "-res-usage", code.name]
        said = subprocess.run(tool, check=True, capture_output=True, text=True, timeout=60).stdout
    found = {"registers": r"REG:(\d+)", "stack": r"STACK:(\d+)", "local": r"LOCAL:(\d+)"}
    return {name: int(re.search(pattern, said)[1]) for name, pattern in found.items()}  # type: ignore[index]
