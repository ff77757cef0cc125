from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bnkit.errors import KernelError, SettingsError
from bnkit.kernels import select


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("auto", "aten: PyTorch's own is faster for an input of this shape and layout"),
        ("numba", "numba: asked for by name"),
        ("aten", "aten: asked for by name"),
        ("reference", "reference: asked for by name"),
    ],
)
def test_a_choice_prints_its_reason(name, text):
    assert str(select(name, torch.zeros(2, 2))) == text


def test_auto_is_plain_pytorch_under_a_transform():
    chosen = []
    torch.func.vmap(lambda x: (chosen.append(select("auto", x)), x)[1])(torch.zeros(2))
    assert chosen[0].kernel.NAME == "reference"
    assert "torch.func" in chosen[0].reason


def test_a_kernel_asked_for_by_name_and_unusable_says_why():
    def attempt(x):
        with pytest.raises(KernelError, match="torch.func transform.*kernel='reference'"):
            select("aten", x)
        return x

    torch.func.vmap(attempt)(torch.zeros(2))


def test_an_unknown_kernel_lists_the_known_ones():
    with pytest.raises(
        SettingsError, match="unknown kernel 'cuda'; expected one of auto, reference, aten, numba, triton"
    ):
        select("cuda", torch.zeros(2, 2))


def test_auto_takes_pytorchs_own_for_a_tensor_on_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: benchmarks/gpu.py looks at what it is given")
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(8, 4, 4, 4, device="cuda")
        choice = select("auto", x)
        with pytest.raises(
            KernelError, match="kernel='triton' was asked for, but (there is no GPU|Triton cannot be used)"
        ):
            select("triton", x)
    assert choice.kernel.NAME == "aten"
    assert "there is no GPU" in choice.reason or "bnkit[triton]" in choice.reason


def test_auto_leaves_a_gpu_to_torch_compile_where_that_can_fuse(monkeypatch):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(8, 4, 4, 4, device="cuda")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    choice = select("auto", x)
    assert (choice.kernel.NAME, "torch.compile fuses" in choice.reason) == ("aten", True)


@pytest.mark.parametrize("mode", ["off", "now"])
def test_auto_has_an_answer_for_what_is_no_batch(mode, monkeypatch):
    monkeypatch.setenv("BNKIT_COMPILE", mode)
    assert str(select("auto", torch.empty(1 << 21))).endswith("it takes inputs of shape (N, C, *), and not (2097152,)")
    with pytest.raises(KernelError, match=r"it takes inputs of shape \(N, C, \*\), and not \(\)"):
        select("numba", torch.empty(()))
