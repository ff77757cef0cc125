"""Batch norm folded away in programs of torch.export: what goes where, what stays and why, and that it computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn import functional

import bnkit
from bnkit.errors import ModelError, SettingsError
from bnkit.model.edit import fold_program

# Of torch about its own trees, where a program is decomposed.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")


def _trained(model):
    """With statistics, gamma and beta that do something, in evaluation."""
    torch.manual_seed(0)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                if norm.affine:
                    norm.weight.uniform_(0.5, 2)
                    norm.bias.normal_()
    return model.eval()


def _details(changes):
    return {change.site: change.detail for change in changes}


class Shared(nn.Module):
    """A convolution whose output two things use, a batch norm that runs twice, a convolution that does, and a computed weight."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(2, 2, 1, bias=False) for _ in range(4))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.BatchNorm2d(2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.norm1(x) + x
        x = self.norm2(self.conv2(self.norm2(self.conv3(x))))
        return self.norm3(self.conv4(self.norm4(functional.conv2d(x, self.conv4.weight * 2))))


LAYERS = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 2, bias=False), nn.BatchNorm1d(4)), (5, 3, 6)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU()), (5, 4, 5, 5)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2, bias=False), nn.BatchNorm3d(2, affine=False)), (5, 1, 3, 3, 3)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)), (5, 4, 3, 3)),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (5, 3)),
    "fused": (lambda: nn.Sequential(nn.Linear(3, 4), bnkit.nn.BatchNorm1d(4, activation="relu")), (5, 3)),
    "half": (lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)).to(torch.bfloat16), (5, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_norm_goes_into_the_layer_before_it(name):
    make, shape = LAYERS[name]
    model = _trained(make())
    x = torch.randn(shape, dtype=next(model.parameters()).dtype)
    program = export(model, (x,), dynamic_shapes=({0: Dim.AUTO},))
    before = {key: tensor.clone() for key, tensor in program.state_dict.items()}
    folded, changes = bnkit.fold(program, x)
    assert [(change.site, change.action, change.detail) for change in changes] == [
        ("1", "folded", "into the output of 0")
    ]
    assert not [node for node in folded.graph.nodes if "batch_norm" in str(node.target)]
    assert {key.partition(".")[2] for key in folded.state_dict if key.startswith("1.")} <= {"bias", "running_mean"}
    limit = 0.1 if name == "half" else 1e-5
    for rows in (x, x[:2], torch.cat([x, x])):
        assert torch.allclose(folded.module()(rows), model(rows), atol=limit, rtol=limit)
    assert changes.error < limit
    # The program given is the one that it was.
    assert all(torch.equal(tensor, before[key]) for key, tensor in program.state_dict.items())
    assert [node for node in program.graph.nodes if "batch_norm" in str(node.target)]


def test_after_decompositions():
    model = _trained(nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 2, 2), nn.BatchNorm2d(2),
                                   nn.Flatten(), nn.Linear(18, 4), nn.BatchNorm1d(4)))  # fmt: skip
    x = torch.randn(3, 2, 3, 3)
    folded, changes = bnkit.fold(export(model, (x,)).run_decompositions(), x)
    assert _details(changes) == {
        "1": "into the output of 0",
        "3": "into the output of 2",
        "6": "5 (aten.addmm.default) feeds it, which is not a convolution or linear layer",
    }
    assert torch.allclose(folded.module()(x), model(x), atol=1e-5)


def test_what_is_not_folded_has_a_reason():
    model = _trained(Shared())
    x = torch.randn(2, 2, 3, 3)
    folded, changes = bnkit.fold(export(model, (x,)), x)
    reasons = [(change.site, change.detail) for change in changes]
    assert reasons == [
        ("norm1", "conv1 feeds something else too"),
        ("norm2", "conv3 has no bias, and the batch norm runs several times"),
        ("norm2", "conv2 has no bias, and the batch norm runs several times"),
        ("norm4", "the weight or the bias of conv2d_3 is computed"),
        ("norm3", "the weight or the bias of conv4 is shared with another layer"),
    ]
    assert torch.equal(folded.module()(x), model(x))


def test_only_those_that_are_wanted():
    model = _trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2)))
    x = torch.randn(3, 2)
    _, changes = bnkit.fold(export(model, (x,)), x, exclude="1")
    assert _details(changes) == {"1": "it is left out by include or exclude", "3": "into the output of 2"}
    with pytest.raises(SettingsError, match="no place matches 'nothing"):
        bnkit.fold(export(model, (x,)), x, include="nothing.*")


def test_the_channels_have_to_be_those_of_the_layer():
    model = _trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)))
    x = torch.randn(2, 5, 3)
    folded, changes = bnkit.fold(export(model, (x,)), x)
    assert _details(changes) == {"1": "its channels are not those of 0"}
    assert torch.equal(folded.module()(x), model(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train(), "1 of the exported program normalises by the batch: it was exported in training mode"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval(), "or has no running statistics"),
        (nn.Linear(2, 2), "the exported program holds no batch norm"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("decomposed", [False, True])
def test_what_is_refused(model, message, decomposed):
    x = torch.randn(3, 2)
    program = export(model, (x,))
    with pytest.raises(ModelError, match=message):
        bnkit.fold(program.run_decompositions() if decomposed else program, x)


def test_an_example_that_the_program_does_not_take():
    program = export(_trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), (torch.randn(3, 2),))
    with pytest.raises(ModelError, match=r"on the example \(\(3, 4\) on cpu\)"):
        bnkit.fold(program, torch.randn(3, 4))
    with pytest.raises(ModelError, match="NaN or inf throughout"):
        bnkit.fold(program, torch.full((3, 2), torch.nan))


def test_a_fold_that_computes_something_else_is_not_returned(monkeypatch):
    program = export(_trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), (torch.randn(3, 2),))
    monkeypatch.setattr(fold_program, "_scaled", lambda weight, scale, groups: weight)
    with pytest.raises(ModelError, match="the exported program with its batch norm folded computes something else"):
        bnkit.fold(program, torch.randn(3, 2))
