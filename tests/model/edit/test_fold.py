"""Folding against the unfolded network, in float64, where rounding hides nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import ModelError, SettingsError
from bnkit.model.edit.add import add
from bnkit.model.edit.fold import fold
from bnkit.model.inspect.example import Example, largest_difference
from bnkit.model.layers.folded import ScaleAndShift
from tests.model.networks import ALL, PlainCnn, built, example


def _trained(model):
    """Statistics, gamma and beta that do something."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator))
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.3)
            if isinstance(module.weight, torch.Tensor):
                module.weight.data.copy_(torch.randn(shape, generator=generator))
            if isinstance(module.bias, torch.Tensor):
                module.bias.data.copy_(torch.randn(shape, generator=generator))
    return model


def _outputs(model, inputs):
    with torch.no_grad():
        return Example(inputs).fresh().run(model.eval())


def _norms(model):
    return [name for name, module in model.named_modules() if getattr(module, "running_mean", None) is not None]


class _Twice(nn.Module):
    """One convolution and one batch norm, each used twice, always one behind the other."""

    def __init__(self, convolutions=1, norms=1):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(convolutions))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(norms))

    def forward(self, x):
        for step in range(2):
            convolution = self.convolutions[step % len(self.convolutions)]
            x = self.norms[step % len(self.norms)](convolution(x)).relu()
        return x


class _Tokens(nn.Module):
    """Batch norm of a linear layer's features on (N, L, C), the ways that people write it."""

    def __init__(self, how):
        super().__init__()
        self.fc, self.norm, self.how = nn.Linear(4, 5), nn.BatchNorm1d(5), how

    def forward(self, x):
        y = self.fc(x)
        if self.how == "transpose":
            return self.norm(y.transpose(1, 2)).transpose(1, 2)
        if self.how == "permute":
            return self.norm(y.permute(0, 2, 1)).permute(0, 2, 1)
        if self.how == "flatten":
            return self.norm(y.flatten(0, 1)).reshape_as(y)
        return self.norm(y)  # the tokens are its channels: there are five of them, too


class _Branches(nn.Module):
    """What the convolution returns is used beside the batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y).relu() + y


class _Residual(nn.Module):
    """Our layer, which adds before it activates."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = bnkit.nn.BatchNorm2d(3, activation="leaky_relu")

    def forward(self, x):
        return self.norm(self.conv(x), residual=x)


IMAGES, TOKENS, ROWS = (2, 3, 6, 6), (2, 5, 4), (6, 4)
CASES = {
    "convolution": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), IMAGES, "into the output of 0"),
    "no bias": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), IMAGES, "into the output of 0"),
    "not affine": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGES, "into the output of 0"),
    "no beta": (
        nn.Sequential(nn.Conv2d(3, 4, 3), bnkit.nn.BatchNorm2d(4, bias=False)), IMAGES, "into the output of 0"
    ),
    "grouped": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), IMAGES, "into the output of 0"),
    "1d": (nn.Sequential(nn.Conv1d(5, 4, 3), nn.BatchNorm1d(4)), TOKENS, "into the output of 0"),
    "3d": (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 2, 3, 3, 3), "into the output of 0"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)), IMAGES, "into the output"),
    "transposed, grouped": (
        nn.Sequential(nn.ConvTranspose2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)), IMAGES, "into the output of 0"
    ),
    "linear": (nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5)), ROWS, "into the output of 0"),
    "linear, transposed tokens": (_Tokens("transpose"), TOKENS, "into the output of fc"),
    "linear, permuted tokens": (_Tokens("permute"), TOKENS, "into the output of fc"),
    "linear, flattened tokens": (_Tokens("flatten"), TOKENS, "into the output of fc"),
    "linear, tokens as channels": (_Tokens("channels"), TOKENS, "its channels are not those of fc"),
    "ours with activation": (
        nn.Sequential(nn.Conv2d(3, 4, 3), bnkit.nn.BatchNorm2d(4, activation="silu")), IMAGES, "into the output of 0"
    ),
    "residual": (_Residual(), IMAGES, "into the output of conv"),
    "sync": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)), IMAGES, "into the output of 0"),
    "frozen by its class": (nn.Sequential(nn.Conv2d(3, 4, 3), None), IMAGES, "into the output of 0"),
    "used twice together": (_Twice(), IMAGES, "into the output of convolutions.0"),
    "one norm behind two": (_Twice(convolutions=2), IMAGES, "into the output of convolutions.0, convolutions.1"),
    "two norms behind one": (_Twice(norms=2), IMAGES, "convolutions.0 runs several times, and not always before it"),
    "used beside": (_Branches(), (2, 2, 4, 4), "conv feeds something else too"),
    "before a convolution": (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), IMAGES, "into the input of 1"),
    "before a grouped one": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3, bias=False)), IMAGES, "into the input of 1"
    ),
    "before zero padding": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), IMAGES, "the zeros that its padding puts around"
    ),
    "before same padding": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="same")), IMAGES, "the zeros that its padding puts"
    ),
    "before mirrored padding": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        IMAGES, "into the input of 1",
    ),
    "before a linear layer": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False)), ROWS, "into the input of 1"),
    "before a transposed one": (
        nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 3)), IMAGES, "a transposed convolution's edges"
    ),
    "before an activation": (
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)), IMAGES, "into a separate scale and shift"
    ),
    "nothing but a batch norm": (nn.BatchNorm2d(3), IMAGES, "into a separate scale and shift"),
    "two in a row": (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), IMAGES, "into the output"),
}  # fmt: skip


class _Frozen(nn.Module):
    """As torchvision and detectron2 write theirs: no subclass of PyTorch's, all of it buffers."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.eps = 1e-5

    def forward(self, x):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)


CASES["frozen by its class"][0][1] = _Frozen(4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_computes_the_same_and_says_what_went_where(case, dtype):
    model, shape, detail = case
    model = _trained(copy.deepcopy(model)).to(dtype).eval()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 + 1
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded, changes = fold(model, inputs)
    assert detail in changes[0].detail
    assert _norms(folded) == []
    assert largest_difference(_outputs(model, inputs), _outputs(folded, inputs)) < (
        1e-14 if dtype.itemsize == 8 else 2e-6
    )
    other = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype) * 5
    assert largest_difference(_outputs(model, other), _outputs(folded, other)) < (
        1e-13 if dtype.itemsize == 8 else 1e-5
    )
    assert changes.error < 2e-6
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not folded.training


@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)])
def test_a_half_precision_layer_under_a_float32_batch_norm(half, tolerance):
    model = _trained(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False).to(half), nn.BatchNorm2d(4))).eval()
    inputs = torch.randn(IMAGES, generator=torch.Generator().manual_seed(0)).to(half)
    folded, changes = fold(model, inputs)
    assert (folded[0].weight.dtype, folded[0].bias.dtype) == (half, half)
    assert changes[0].detail == "into the output of 0"
    exact = _outputs(copy.deepcopy(model).double(), inputs.double())
    assert largest_difference(exact, _outputs(folded, inputs)) < tolerance


@pytest.mark.parametrize("kind", ALL)
def test_what_add_put_in_folds_back(kind):
    model = built(kind)
    added, _ = add(model, example(model), preserve=True)
    _trained(added)
    folded, changes = fold(added, example(model))
    assert len(changes.made) == len(_norms(added))
    assert _norms(folded) == []
    assert [type(module) for module in folded.modules()] == [type(module) for module in model.modules()]
    assert folded.state_dict().keys() >= model.state_dict().keys()
    assert largest_difference(_outputs(added, example(model)), _outputs(folded, example(model))) < 5e-6


@pytest.mark.parametrize("where", ["after_activation", "after_pooling"])
def test_what_add_put_behind_an_activation_folds_too(where):
    model = built(PlainCnn)
    added = _trained(add(model, example(model), where=where).model)
    folded, changes = fold(added, example(model))
    assert _norms(folded) == []
    assert largest_difference(_outputs(added, example(model)), _outputs(folded, example(model))) < 5e-6


def test_biases_that_it_makes_train():
    folded, _ = fold(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), torch.randn(IMAGES))
    assert folded[0].bias.requires_grad
    _outputs(folded, torch.randn(IMAGES))
    folded(torch.randn(IMAGES)).sum().backward()
    assert folded[0].bias.grad is not None


def test_a_scale_and_a_shift_takes_the_activation_with_it():
    model = nn.Sequential(nn.ReLU(), bnkit.nn.BatchNorm2d(3, activation="relu"))
    folded, changes = fold(_trained(model).eval(), torch.randn(IMAGES))
    assert isinstance(folded[1], ScaleAndShift)
    assert isinstance(folded[1].activation, nn.ReLU)
    assert changes[0].detail == "into a separate scale and shift: 0 feeds it; its activation follows it"


class _Standardised(nn.Conv2d):
    """Its output does not follow the scale of its weight."""

    def forward(self, x):
        weight = self.weight / self.weight.std(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class _Padded(nn.Conv2d):
    """A forward of its own, which follows its weight."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class _InHalves(nn.Conv2d):
    """As the convolutions of octave networks: it returns two tensors."""

    def forward(self, x):
        return super().forward(x).chunk(2, dim=1)


class _Shuffled(nn.Conv2d):
    """Its channels become pixels."""

    def forward(self, x):
        return nn.functional.pixel_shuffle(super().forward(x), 2)


class _First(nn.Module):
    def forward(self, x):
        return x[0]


@pytest.mark.parametrize(
    "layers",
    [(_InHalves(3, 8, 3), _First()), (_Shuffled(3, 16, 3), nn.Identity())],
    ids=["several tensors", "channels in other places"],
)
def test_a_layer_that_returns_something_else_than_its_channels_is_left_alone(layers):
    model = _trained(nn.Sequential(*layers, nn.BatchNorm2d(4))).eval()
    inputs = torch.randn(IMAGES)
    folded, changes = fold(model, inputs)
    assert changes[0].detail.startswith("into a separate scale and shift: 0 has a custom forward")
    assert largest_difference(_outputs(model, inputs), _outputs(folded, inputs)) < 2e-6


@pytest.mark.parametrize(
    ("layer", "detail"),
    [
        (_Standardised(3, 4, 3), "into a separate scale and shift: 0 has a custom forward"),
        (_Padded(3, 4, 3), "into the output of 0"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "the weight of 0 is computed from others"),
    ],
    ids=["standardised", "padded", "weight norm"],
)
def test_layers_that_are_not_pytorchs_own(layer, detail):
    model = _trained(nn.Sequential(layer, nn.BatchNorm2d(4))).eval()
    inputs = torch.randn(IMAGES)
    folded, changes = fold(model, inputs)
    assert detail in changes[0].detail
    assert largest_difference(_outputs(model, inputs), _outputs(folded, inputs)) < 2e-6


def test_a_weight_that_two_layers_share_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    folded, changes = fold(_trained(model).eval(), torch.randn(ROWS))
    assert "the weight of 0 is shared with another layer" in changes[0].detail
    assert folded[0].weight is folded[2].weight
    assert largest_difference(_outputs(model, torch.ones(ROWS)), _outputs(folded, torch.ones(ROWS))) < 2e-6


class _Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.batchwise = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.batchwise(self.norm(x))


def test_what_is_kept_and_why():
    folded, changes = fold(_Sometimes(), torch.randn(ROWS))
    assert {change.site: change.detail for change in changes.kept} == {
        "batchwise": "it has no running statistics: what it does depends on the batch",
        "other": "it did not run on the example",
    }
    folded, changes = fold(_Sometimes(), torch.randn(ROWS), exclude="norm")
    assert changes.made == ()
    assert {change.site: change.detail for change in changes}["norm"] == "it is left out by include or exclude"


class _Reads(nn.Module):
    """Reads the batch norm beside running it: folding cannot be right."""

    def __init__(self, attribute):
        super().__init__()
        self.conv, self.norm, self.attribute = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), attribute

    def forward(self, x):
        scale = getattr(self.norm, self.attribute).mean() if hasattr(self.norm, "weight") else 0.0
        return self.norm(self.conv(x)) * scale


class _Peeks(nn.Module):
    """Another output when the weights are others."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x) if self.conv.weight.sum() > 0 else self.conv(x) + 1)


def test_a_mismatch_raises_and_names_the_place():
    with pytest.raises(ModelError, match="_Reads computes something else .* the outputs differ by"):
        fold(_trained(_Reads("weight")), torch.randn(IMAGES))
    model = _trained(_Peeks())
    model.conv.weight.data.abs_()
    model.norm.weight.data.abs_().neg_()
    with pytest.raises(
        ModelError, match=r"folding norm into the output of conv changes what comes out there by .*`exclude` 'norm'"
    ):
        fold(model, torch.randn(IMAGES))


class _NeedsItsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)) * self.norm.weight.mean()


@pytest.mark.parametrize(
    ("model", "inputs", "changes", "error", "message"),
    [
        (
            _NeedsItsNorm(),
            torch.randn(IMAGES),
            {},
            ModelError,
            "_NeedsItsNorm with its batch norm folded does not run any",
        ),
        (
            nn.Linear(3, 4),
            torch.randn(2, 3),
            {},
            ModelError,
            "Linear has no batch norm; expected a model with something",
        ),
        (nn.BatchNorm1d(4), torch.randn(2, 3), {}, ModelError, "BatchNorm1d raised RuntimeError on the example"),
        (nn.BatchNorm1d(4), torch.randn(ROWS), {"include": "x"}, SettingsError, "no place matches 'x'"),
    ],
)
def test_invalid_input_is_refused(model, inputs, changes, error, message):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        fold(model, inputs, **changes)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class _OwnPrecision(nn.Module):
    """Does not run in float64."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x.float() if self.conv.weight.dtype == torch.float32 else x.half()))


def test_a_model_that_only_runs_in_its_own_precision_is_checked_in_that():
    model = _trained(_OwnPrecision())
    folded, changes = fold(model, torch.randn(IMAGES))
    assert changes.error < 2e-6
    assert _norms(folded) == []


def test_nothing_of_batch_norm_is_left_in_what_is_exported():
    model = _trained(add(built(PlainCnn), example(built(PlainCnn))).model)
    folded, _ = fold(model, example(built(PlainCnn)))
    program = torch.export.export(folded, (example(built(PlainCnn)),))
    assert not [node.name for node in program.graph.nodes if "batch_norm" in str(node.target)]
    torch.testing.assert_close(program.module()(example(built(PlainCnn))), _outputs(folded, example(built(PlainCnn))))
