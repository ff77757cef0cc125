"""ONNX files: run by onnxruntime, with several numbers of rows, which are called ``batch``."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from bnkit.errors import ModelError
from bnkit.model.save import save
from bnkit.model.verify import verify_onnx_file

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")]
EXAMPLE = torch.linspace(-1, 1, 20).view(5, 4)


def _model():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()


class OfOneSize(nn.Module):
    """Takes five rows."""

    def forward(self, x):
        return x.view(5, 4) * 2


def test_onnxruntime_runs_several_numbers_of_rows(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    seen = []
    compare = verify_onnx_file.compare

    def recorded(model, examples, run, path):
        seen.append([len(example.arguments[0]) for example in examples])
        compare(model, examples, run, path)

    monkeypatch.setattr(verify_onnx_file, "compare", recorded)
    save(_model(), tmp_path / "x.onnx", EXAMPLE)
    save(OfOneSize(), tmp_path / "y.onnx", EXAMPLE)
    assert seen == [[5, 3], [5, 1, 2, 3, 7], [5], [5]]


def test_what_onnxruntime_computes_counts(monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    run = onnxruntime.InferenceSession.run

    def wrong(session, *arguments):
        return [output + 1 for output in run(session, *arguments)]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    with pytest.raises(ModelError, match="x.onnx would not compute what Sequential does: on 5 rows"):
        save(_model(), tmp_path / "x.onnx", EXAMPLE)

    def fails(session, *arguments):
        raise RuntimeError("no memory")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fails)
    with pytest.raises(ModelError, match="x.onnx cannot be run by onnxruntime .RuntimeError: no memory"):
        save(_model(), tmp_path / "x.onnx", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_onnxruntime_has_no_kernel_for_is_left_to_the_evaluator(tmp_path, dtype):
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)).to(dtype)
    save(model, tmp_path / "x.onnx", torch.randn(5, 1, 3, 3, dtype=dtype))
    assert (tmp_path / "x.onnx").exists()


def _sizes(path):
    import onnx

    graph = onnx.load(str(path)).graph
    values = {"inputs": graph.input, "outputs": graph.output, "between": graph.value_info}
    return {
        name: [[size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in found]
        for name, found in values.items()
    }


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, a, b):
        return self.fc(self.norm(a)), 2 * b, torch.cat([a, b])


def test_the_number_of_rows_is_called_batch(tmp_path):
    save(_model(), tmp_path / "x.onnx", EXAMPLE)
    sizes = _sizes(tmp_path / "x.onnx")
    assert [size[0] for key in ("inputs", "outputs") for size in sizes[key]] == ["batch", "batch"]
    assert {size for found in sizes["between"] for size in found if isinstance(size, str)} <= {"batch"}
    # Where nothing ties the inputs together, they may have different numbers of rows.
    save(TwoInputs(), tmp_path / "y.onnx", {"a": torch.randn(5, 3), "b": torch.randn(6, 3)})
    sizes = _sizes(tmp_path / "y.onnx")
    assert sizes["inputs"] == [["batch", 3], ["batch_b", 3]]
    assert sizes["outputs"][:2] == [["batch", 2], ["batch_b", 3]]
    # One row alone is taken as it is, and so is what the model fixes.
    save(TwoInputs(), tmp_path / "z.onnx", {"a": torch.randn(1, 3), "b": torch.randn(6, 3)})
    assert _sizes(tmp_path / "z.onnx")["inputs"] == [[1, 3], ["batch", 3]]
    save(OfOneSize(), tmp_path / "w.onnx", EXAMPLE)
    assert _sizes(tmp_path / "w.onnx")["inputs"][0][0] == 5
