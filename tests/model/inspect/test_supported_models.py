"""Models that no verb can handle: one line that says what it is, and what to give in its place."""

from __future__ import annotations

import tempfile

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import bnkit
from bnkit.errors import BnkitError, ModelError, SettingsError
from tests.model.edit.test_fold import _trained

IMAGES = (4, 3, 9, 9)
VERBS = {
    "add": lambda model: bnkit.add(model, torch.ones(IMAGES)),
    "remove": lambda model: bnkit.remove(model, torch.ones(IMAGES)),
    "fold": lambda model: bnkit.fold(model, torch.ones(IMAGES)),
    "convert": bnkit.convert,
    "freeze": bnkit.freeze,
    "unfreeze": bnkit.unfreeze,
    "recalibrate": lambda model: bnkit.recalibrate(model, torch.ones(IMAGES)),
    "check": lambda model: bnkit.check(model, torch.ones(IMAGES)),
    "assert_healthy": lambda model: bnkit.assert_healthy(model, torch.ones(IMAGES)),
    "Monitor": bnkit.Monitor,
}
CHANGING = ("add", "remove", "fold", "convert")


def _network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
    return _trained(nn.Sequential(*layers)).eval()


def _inputs():
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))


def _quantized(convert):
    from torch.ao import quantization

    model = nn.Sequential(quantization.QuantStub(), *_network(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    model = quantization.prepare(model)
    model(_inputs())
    return quantization.convert(model) if convert else model


def _for_training_quantized():
    from torch.ao import quantization

    model = _network().train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(quantization.fuse_modules_qat(model, [["0", "1", "2"]]))


def _on_several_devices():
    model = nn.DataParallel(_network())
    model.device_ids = [0, 1]
    return model


REFUSED = {  # what makes it, the verbs that refuse it, and what they say
    "scripted": (lambda: torch.jit.script(_network()), VERBS, "is TorchScript, .* give the nn.Module that it was made from"),
    "traced": (lambda: torch.jit.trace(_network(), _inputs()), VERBS, "TopLevelTracedModule is TorchScript"),
    "frozen script": (lambda: torch.jit.freeze(torch.jit.script(_network())), VERBS, "is TorchScript"),
    "script in a wrapper": (lambda: nn.DataParallel(torch.jit.script(_network())), VERBS, "DataParallel is TorchScript"),
    "average of a script": (
        lambda: torch.optim.swa_utils.AveragedModel(torch.jit.script(_network())), VERBS, "AveragedModel is TorchScript",
    ),
    "exported": (
        lambda: torch.export.export(_network(), (_inputs(),)).module(), VERBS, "GraphModule is a graph of single operations",
    ),
    "exported within": (
        lambda: nn.Sequential(torch.export.export(_network(), (_inputs(),)).module(), nn.BatchNorm2d(2)), VERBS,
        "Sequential holds a graph of single operations",
    ),
    "unflattened": (
        lambda: torch.export.unflatten(torch.export.export(_network(), (_inputs(),))), VERBS,
        "UnflattenedModule is a graph of single operations",
    ),
    "make_fx": (lambda: make_fx(_network())(_inputs()), VERBS, "is a graph of single operations"),
    "quantized": (lambda: _quantized(convert=True), VERBS, "is quantized, .* from before torch.ao.quantization.convert"),
    "observed": (lambda: _quantized(convert=False), CHANGING, "is prepared for quantization, .* prepare the result"),
    "for training quantized": (_for_training_quantized, CHANGING, "is prepared for quantization"),
    "on several devices": (_on_several_devices, (*CHANGING, "recalibrate", "check"), r"\(DataParallel\), .* give the module in it"),
    "a class": (lambda: nn.ReLU, VERBS, r"model is the class ReLU; expected an nn.Module: build it, ReLU\(...\)"),
    "an exported program": (
        lambda: torch.export.export(_network(), (_inputs(),)), [verb for verb in VERBS if verb != "fold"],
        "model is a ExportedProgram; expected an nn.Module: give the one that was exported",
    ),
    "weights": (lambda: _network().state_dict(), VERBS, "model is a OrderedDict; .* give it these tensors by load_state_dict"),
    "a scripted function": (lambda: torch.jit.script(nn.functional.relu), VERBS, "TorchScript cannot be changed"),
    "a function": (lambda: torch.relu, VERBS, "expected an nn.Module"),
    "nothing": (lambda: None, VERBS, "model is a NoneType; expected an nn.Module"),
}  # fmt: skip

_SLOW = ("exported", "exported within", "unflattened", "traced", "an exported program")


@pytest.mark.filterwarnings("ignore")  # of PyTorch, that these are deprecated
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in REFUSED]
)
def test_what_is_refused_by_every_verb(name):
    make, verbs, message = REFUSED[name]
    model = make()
    for verb in verbs:
        with pytest.raises(BnkitError, match=message) as caught:
            VERBS[verb](model)
        assert isinstance(caught.value, ModelError if isinstance(model, nn.Module) else SettingsError)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_what_is_prepared_for_quantization_can_still_be_looked_at():
    model = _for_training_quantized()
    before = {name: (buffer.shape, buffer.clone()) for name, buffer in model.named_buffers()}
    assert bnkit.check(model, _inputs()) is not None
    for name, buffer in model.named_buffers():  # its observers give theirs another size as they run
        assert buffer.shape == before[name][0]
    assert len(bnkit.recalibrate(model, _inputs()).layers) == 1
    assert len(bnkit.freeze(model).made) == 1


def _compiled():
    model = torch.compile(_network(), backend="eager")
    model(_inputs())
    return model


def _compiled_in_place():
    model = _network()
    model.compile(backend="eager")
    model(_inputs())
    return model


def _dynamically_quantized():
    from torch.ao import quantization

    return quantization.quantize_dynamic(nn.Sequential(_network(), nn.Flatten(), nn.Linear(50, 3)), {nn.Linear})


class _Quantizable(nn.Module):
    """As a model that may be quantized later is written."""

    def __init__(self):
        super().__init__()
        from torch.ao import quantization

        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.model, self.sum = _network(), torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x):
        y = self.model(self.quant(x))
        return self.dequant(self.sum.add(y, y))


HANDLED = {
    "to be quantized later": (_Quantizable, "model."),
    "traced by fx": (lambda: torch.fx.symbolic_trace(_network()), ""),
    "compiled": (_compiled, "_orig_mod."),
    "compiled in place": (_compiled_in_place, ""),
    "in DataParallel": (lambda: nn.DataParallel(_network()), "module."),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(_network()), "module."),
    "partly quantized": (_dynamically_quantized, "0."),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HANDLED)
def test_what_wraps_or_traces_a_network_is_handled(name):
    make, prefix = HANDLED[name]
    model = make().eval()
    x = _inputs()
    expected = model(x)
    for changed, changes in (bnkit.fold(model, x), bnkit.convert(model)):
        assert [change.site for change in changes.made] == [f"{prefix}1"]
        torch.testing.assert_close(changed.eval()(x), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bnkit.remove(model, x).model.modules())
    with bnkit.recompute(model):
        model(x).sum().backward()
    assert len(bnkit.recalibrate(model, x).layers) == 1
    assert len(bnkit.freeze(model).made) == 1


def test_a_model_with_a_part_in_torchscript():
    model = nn.Sequential(torch.jit.script(_network()[:2]), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = _inputs()
    folded, changes = bnkit.fold(model, x)
    assert [(change.site, change.detail) for change in changes] == [("2", "into the output of 1")]
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    bnkit.remove(model, x)
    assert [change.site for change in bnkit.convert(model).changes] == ["2"]
    assert bnkit.check(model, x, select="BN1") is not None
    reasons = {change.site: change.detail for change in bnkit.add(model, x).changes}
    assert reasons["0.0"] == "a function uses its weight: there is no call to put a batch norm after"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("add", "Monitor")])
def test_a_model_whose_batch_norms_are_all_in_torchscript(verb):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.BatchNorm2d(4).eval())).eval()
    with pytest.raises(ModelError, match="no batch norm outside of '1', which is TorchScript and cannot be changed"):
        VERBS[verb](model)


def test_what_is_distributed_is_changed_before_it_is_wrapped():
    with tempfile.NamedTemporaryFile() as file:
        torch.distributed.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
        try:
            model = nn.parallel.DistributedDataParallel(_network())
            for verb in CHANGING:
                with pytest.raises(
                    ModelError, match=r"\(DistributedDataParallel\); give the module in it, model.module"
                ):
                    VERBS[verb](model)
            assert len(bnkit.recalibrate(model, _inputs()).layers) == 1
            assert len(bnkit.freeze(model).made) == 1
        finally:
            torch.distributed.destroy_process_group()


def test_tensors_without_values():
    from torch._subclasses import FakeTensorMode

    model, x = _network(), _inputs()
    with FakeTensorMode():
        for verb in (*CHANGING, "recalibrate", "check"):
            with pytest.raises(ModelError, match="has tensors without values .*: call bnkit outside of the mode"):
                VERBS[verb](model)
    assert bnkit.fold(model, x).changes.error < 1e-6


@pytest.mark.parametrize("verb", ["add", "remove", "fold", "convert", "recalibrate", "check"])
def test_under_a_transform_of_torch_func(verb):
    model = _network()

    def inside(x):
        with pytest.raises(ModelError, match="under a transform of torch.func .* call bnkit outside of it"):
            VERBS[verb](model)
        return x

    torch.func.vmap(inside)(torch.ones(3))
