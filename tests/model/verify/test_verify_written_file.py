"""A file takes its place only when it was loaded again and computes what the model does."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from bnkit.errors import ModelError
from bnkit.model import save as saving
from bnkit.model.inspect.example import Example
from bnkit.model.save import save
from bnkit.model.verify import verify_onnx_file, verify_written_file

OLD = b"what was there before"
ENDINGS = [
    pytest.param(".safetensors"),
    pytest.param(".pt2", marks=pytest.mark.slow),
    pytest.param(
        ".onnx", marks=[pytest.mark.slow, pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnxscript")]
    ),
]  # fmt: skip
EXPORTED = ENDINGS[1:]


def _model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()


EXAMPLE = torch.linspace(-1, 1, 20).view(5, 4)


def _write_another(monkeypatch):
    """Let what is written be a model that differs by a thousandth."""
    another, tensors_as_bytes, program = _model(), saving.tensors_as_bytes, saving._program
    another[3].weight.data *= 1.001
    monkeypatch.setattr(saving, "tensors_as_bytes", lambda model: tensors_as_bytes(another))
    monkeypatch.setattr(saving, "_program", lambda model, example: program(another, example))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_computes_something_else_does_not_take_its_place(monkeypatch, tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(OLD)
    _write_another(monkeypatch)
    with pytest.raises(ModelError, match="nothing was written") as caught:
        save(_model(), path, EXAMPLE)
    if ending != ".safetensors":  # of which the very tensors are compared
        assert "on 5 rows the outputs differ by " in str(caught.value)
    assert path.read_bytes() == OLD and [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interruption_leaves_the_file_that_was_there(monkeypatch, tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(OLD)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    for name in ("prove_weights", "prove_program", "prove_onnx"):
        monkeypatch.setattr(saving, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(_model(), path, EXAMPLE)
    assert path.read_bytes() == OLD and [file.name for file in tmp_path.iterdir()] == [path.name]


class _WrittenTwice(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"] * 2


class _NotLoaded(nn.Linear):
    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        super()._load_from_state_dict({**state_dict, f"{prefix}bias": torch.zeros(3)}, prefix, *arguments)


@pytest.mark.parametrize("kind", [_WrittenTwice, _NotLoaded])
def test_weights_that_do_not_come_back(tmp_path, kind):
    model = nn.Sequential(kind(4, 3))
    with pytest.raises(
        ModelError, match=r"x.safetensors would not compute what Sequential does: on 5 rows .* of their"
    ):
        save(model, tmp_path / "x.safetensors", EXAMPLE)
    assert list(tmp_path.iterdir()) == []
    save(
        model, tmp_path / "x.safetensors"
    )  # without an example the tensors are compared, and they are those of state_dict()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("0.bias"),
        lambda tensors: tensors.update({"0.bias": tensors["0.bias"] + 1e-7}),
        lambda tensors: tensors.update({"0.bias": tensors["0.bias"].double()}),
        lambda tensors: tensors.update({"0.bias": tensors["0.bias"][:2]}),
    ],
)
def test_tensors_are_compared_bit_by_bit(tmp_path, change):
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.data[0] = torch.nan  # which is itself
    tensors = model.state_dict()
    change(tensors)
    save_file(dict(tensors), tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="does not give 0.bias of Sequential back"):
        verify_written_file.prove_weights(model, tmp_path / "x.safetensors", None)


class _RunsOnly(nn.Module):
    """Cannot be copied: its weights are written all the same."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.open = (entry for entry in ())

    def forward(self, x):
        return self.fc(x)


def test_weights_of_what_cannot_be_copied(tmp_path):
    assert save(_RunsOnly(), tmp_path / "x.safetensors", EXAMPLE) is False


class _Several(nn.Module):
    """Keywords, integers, and a nest of outputs."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(5, 4), nn.BatchNorm1d(4)

    def forward(self, ids, scale=None, *, power=1):
        inside = self.norm(self.table(ids).mean(1))
        return {"z": inside * scale**power, "a": (inside, inside.argmax(-1)), "none": None}


class _Draws(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, True)


class _OfOneSize(nn.Module):
    def forward(self, x):
        return x.view(5, -1) * 2


class _ByTheBatch(nn.Module):
    """What is free in the program is free in the computation too."""

    def forward(self, x):
        return (x - x.mean(0)) / x.shape[0]


class _OfFours(nn.Module):
    """Takes whole fours of rows."""

    def forward(self, x):
        return x.view(-1, 4, *x.shape[1:]).sum(1)


@pytest.mark.parametrize("ending", EXPORTED)
@pytest.mark.parametrize(
    ("make", "example"),
    [
        (_Several, {"scale": torch.ones(5, 1) * 2, "ids": torch.arange(35).view(5, 7) % 5}),
        (_Draws, EXAMPLE),
        (_OfOneSize, EXAMPLE),
        (_ByTheBatch, EXAMPLE),
        (_OfFours, torch.randn(8, 3)),
        (lambda: _model().bfloat16(), EXAMPLE.bfloat16()),
        (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), torch.randn(2, 4, 5, 6)),
    ],
)
def test_a_correct_file_is_written(tmp_path, ending, make, example):
    save(make(), tmp_path / f"x{ending}", example)
    assert (tmp_path / f"x{ending}").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_another_number_of_rows_is_run_where_it_is_free(monkeypatch, tmp_path):
    seen = []
    compare = verify_written_file.compare

    def recorded(model, examples, run, path):
        seen.append([len(example.arguments[0]) for example in examples])
        compare(model, examples, run, path)

    monkeypatch.setattr(verify_written_file, "compare", recorded)
    monkeypatch.setattr(verify_onnx_file, "compare", recorded)
    monkeypatch.setattr(verify_onnx_file, "find_spec", {}.get)  # without onnxruntime
    save(_model(), tmp_path / "x.onnx", EXAMPLE)
    save(_model(), tmp_path / "x.pt2", EXAMPLE[:3])
    save(_OfOneSize(), tmp_path / "x.pt2", EXAMPLE)
    save(_OfFours(), tmp_path / "x.pt2", torch.randn(8, 3))
    monkeypatch.setattr(verify_written_file, "_MANY", 10)
    save(_model(), tmp_path / "x.onnx", EXAMPLE)
    assert seen == [[5, 3], [3, 2], [5], [8, 16], [3, 2]]


def test_whole_numbers_are_compared_too():
    numbers = torch.arange(400)
    few, many = numbers.clone(), numbers.clone()
    few[:4] += 1
    many[:5] += 1
    assert verify_written_file._difference([numbers], [few]) == 0.0
    assert verify_written_file._difference([numbers], [many]) == float("inf")
    assert verify_written_file._difference([numbers > 3], [numbers > 200]) == float("inf")


def test_the_transposed_convolution_is_torchs():
    from bnkit.model.verify.onnx_operators import ConvTranspose

    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 6, generator=draw), torch.randn(4, 3, 3, 2, generator=draw)
    bias = torch.randn(6, generator=draw)
    expected = functional.conv_transpose2d(x, weight, bias, (3, 2), (1, 0), (2, 1), 2, (2, 1))
    (output,) = ConvTranspose._run(
        None, x.numpy(), weight.numpy(), bias.numpy(), group=2, strides=[3, 2], pads=[1, 0, 1, 0], output_padding=[2, 1], dilations=[2, 1]
    )  # fmt: skip
    assert np.allclose(output, expected.numpy(), atol=1e-5)
    with pytest.raises(NotImplementedError, match="auto_pad"):
        ConvTranspose._run(None, x.numpy(), weight.numpy(), auto_pad="SAME_UPPER")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_what_the_evaluator_cannot_run_is_refused(monkeypatch, tmp_path):
    import onnx.reference

    def none(*arguments, **keywords):
        raise NotImplementedError("no such operator\nat all")

    monkeypatch.setattr(onnx.reference, "ReferenceEvaluator", none)
    with pytest.raises(
        ModelError, match="x.onnx cannot be run by onnx's reference evaluator .NotImplementedError: no such"
    ):
        save(_model(), tmp_path / "x.onnx", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


def test_the_tolerance_is_that_of_the_coarsest_dtype():
    assert verify_written_file.tolerance(_model(), [EXAMPLE]) == pytest.approx(2.0**-11.5)
    assert verify_written_file.tolerance(_model().half(), []) == pytest.approx(2.0**-5)
    assert verify_written_file.tolerance(_model().double(), [EXAMPLE.double()]) == pytest.approx(2.0**-26)
    assert verify_written_file.tolerance(nn.ReLU(), []) == pytest.approx(2.0**-11.5)


def test_the_model_and_the_random_state_stay_as_they_were(tmp_path):
    model = _model().train()
    before, state = {key: tensor.clone() for key, tensor in model.state_dict().items()}, torch.get_rng_state()
    save(model, tmp_path / "x.safetensors", EXAMPLE)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert verify_written_file._with_rows(Example(EXAMPLE), 5, 7).arguments[0].shape == (7, 4)
