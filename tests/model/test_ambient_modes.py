"""The verbs inside autocast, inference mode and other modes of PyTorch: their results are right inside and outside."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import bnkit
from bnkit.errors import ModelError
from bnkit.model.edit import fold as fold_module
from bnkit.model.inspect.example import largest_difference
from tests.cases.selection import selected
from tests.model.edit.test_fold import _trained

IMAGES = (8, 3, 9, 9)
HALVES = [torch.bfloat16, torch.float16]


def _normed(*, kind=nn.Conv2d, **settings):
    torch.manual_seed(0)
    return _trained(nn.Sequential(kind(3, 4, 3, **settings), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))).eval()


def _plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


def _inputs(seed=1):
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(seed))


PRESERVING = {
    "fold": (_normed, bnkit.fold),
    "fold, before": (lambda: _trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))).eval(), bnkit.fold),
    "fold, transposed": (lambda: _normed(kind=nn.ConvTranspose2d), bnkit.fold),
    "remove": (_normed, lambda model, x: bnkit.remove(model, x, preserve=True)),
    "add": (_plain, lambda model, x: bnkit.add(model, x, preserve=True)),
    "convert": (_normed, lambda model, x: bnkit.convert(model)),
}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", PRESERVING)
def test_inside_of_autocast(name, half):
    make, verb = PRESERVING[name]
    model, x = make(), _inputs()
    exact = copy.deepcopy(model).double()(x.double())
    with torch.autocast("cpu", dtype=half):
        before = model(x)  # so that autocast remembers its weights
        changed, changes = verb(model, x)
        inside = largest_difference(before.float(), changed.eval()(x).float())
        own = largest_difference(exact, before)
    assert inside <= max(4 * own, torch.finfo(half).eps)
    assert largest_difference(model(x), changed(x)) < 1e-5
    if changes.error is not None:
        assert changes.error <= torch.finfo(half).eps ** 0.5
        assert changes.error == pytest.approx(inside, abs=own)


def test_autocast_remembers_again_afterwards():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bnkit.fold(_normed(), _inputs())
        assert torch.is_autocast_cache_enabled()
    with pytest.raises(ModelError), torch.autocast("cpu", dtype=torch.bfloat16):
        bnkit.fold(_plain(), _inputs())
    assert torch.is_autocast_cache_enabled()


def test_a_result_that_its_own_check_rejects_is_not_handed_out(monkeypatch):
    original, calls = fold_module._apply, []

    def spoiling(model, planned):
        result = original(model, planned)
        calls.append(result)
        if len(calls) == 2:  # the one that is handed out: the first is the one in float64
            result[0].weight.data.mul_(1.01)
        return result

    monkeypatch.setattr(fold_module, "_apply", spoiling)
    with pytest.raises(ModelError, match="Sequential computes something else with its batch norm folded: .* differ by"):
        bnkit.fold(_normed(), _inputs())


@pytest.mark.parametrize("name", [*PRESERVING, "remove, to train", "add, to train"])
def test_what_is_made_in_inference_mode_can_train(name):
    more = {
        "remove, to train": (_normed, bnkit.remove),
        "add, to train": (_plain, bnkit.add),
    }
    make, verb = {**PRESERVING, **more}[name]
    with torch.inference_mode():
        inside = make()  # of tensors that can never be trained
        x = _inputs()
        changed = [verb(make_it, x).model for make_it in (inside, copy.deepcopy(inside))]
    for model in changed:
        assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
        model.train()(_inputs()).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    outside = make()
    with torch.inference_mode():
        model = verb(outside, x).model
    model.train()(_inputs()).sum().backward()


def test_statistics_made_in_inference_mode_are_recalibrated_and_given_back():
    with torch.inference_mode():
        model = _normed()
    before = model[1].running_mean.clone()
    recalibration = bnkit.recalibrate(model, _inputs())
    with torch.no_grad():
        torch.testing.assert_close(model[1].running_mean, model[0](_inputs()).mean((0, 2, 3)))
    recalibration.undo()
    assert torch.equal(model[1].running_mean, before)
    with torch.inference_mode():
        bnkit.recalibrate(model, _inputs()).undo()
    assert torch.equal(model[1].running_mean, before)


@contextlib.contextmanager
def _default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CONTEXTS = {
    "no gradients": torch.no_grad,
    "deterministic": _deterministic,
    "float64 by default": lambda: _default_dtype(torch.float64),
    "bfloat16 by default": lambda: _default_dtype(torch.bfloat16),
    "another device by default": lambda: torch.device("meta"),
    "parametrizations that remember": parametrize.cached,
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", PRESERVING)
def test_inside_of_other_contexts(name, context):
    make, verb = PRESERVING[name]
    model, x = make(), _inputs()
    expected = model(x)
    with CONTEXTS[context]():
        changed, changes = verb(model, x)
    assert largest_difference(expected, changed.eval()(x)) < 1e-6
    assert changes.error is None or changes.error < 1e-6
    assert {(tensor.dtype, tensor.device.type) for tensor in changed.parameters()} == {(torch.float32, "cpu")}
    assert all(parameter.requires_grad for parameter in changed.parameters())


def test_parametrizations_that_remember_do_not_take_one_copy_for_another():
    model, x = _normed(), _inputs()
    parametrizations.weight_norm(model[0])
    with parametrize.cached():
        model(x)
        for verb in (bnkit.fold, bnkit.remove):
            for _ in range(3):
                changed, changes = verb(model, x)
                if changes.error is not None:
                    assert largest_difference(model(x), changed(x)) < 1e-6


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize("name", PRESERVING)
def test_a_model_of_another_precision(name, dtype):
    make, verb = PRESERVING[name]
    model, x = make().to(dtype), _inputs().to(dtype)
    exact = copy.deepcopy(model).double()(x.double())
    changed, changes = verb(model, x)
    own = largest_difference(exact, model(x))
    assert largest_difference(exact, changed.eval()(x)) <= 8 * (own + torch.finfo(dtype).eps)
    assert changes.error is None or changes.error <= torch.finfo(dtype).eps ** 0.5


def test_buffers_that_a_forward_pass_exchanges_or_resizes_are_given_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("seen", torch.zeros(0))

        def forward(self, x):
            self.calls = self.calls + 1
            self.seen.resize_(2).fill_(1.0)
            return self.layer(x).relu()

    added = bnkit.add(Counting(), torch.ones(IMAGES)).model
    assert added.calls.tolist() == [0.0]
    assert added.seen.shape == (0,)


class _CastingInside(nn.Module):
    """Autocast within: from outside it is a model in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(x).float()


@pytest.mark.parametrize("name", PRESERVING)
def test_a_model_with_autocast_inside(name):
    make, verb = PRESERVING[name]
    model, x = _CastingInside(make()), _inputs()
    changed, changes = verb(model, x)
    exact = copy.deepcopy(model).double()(x.double())
    own = largest_difference(exact, model(x))
    assert largest_difference(exact, changed.eval()(x)) <= 4 * own + torch.finfo(torch.bfloat16).eps
    assert changes.error is None or changes.error <= 16 * own


@pytest.mark.parametrize("name", ["fold", "remove", "add"])
def test_on_the_meta_device(name):
    make, verb = PRESERVING[name]
    with pytest.raises(ModelError, match="is on the meta device, without values to compare"):
        verb(make().to("meta"), _inputs().to("meta"))


@pytest.mark.slow
@pytest.mark.parametrize("name", selected([("fold",), ("remove",), ("add",)], lambda name: name == "fold"))
def test_inside_of_a_function_that_is_compiled(name):
    make, verb = PRESERVING[name]
    model = make()

    @torch.compile(backend="eager")
    def compiled(x):
        return verb(model, x).model(x)

    with pytest.raises(ModelError, match="inside a function that torch.compile compiles; call it before"):
        compiled(_inputs())
