"""What is exported of a folded network holds no batch norm, and computes the same."""

from __future__ import annotations

import warnings

import onnx
import pytest
import torch

from bnkit.model.edit.fold import fold
from bnkit.model.inspect.example import largest_difference
from tests.zoo.networks import NORMALISED, Network, build, cases, example
from tests.zoo.rounding import floating, norms, outputs

pytestmark = pytest.mark.slow

# Different in structure: residual, batch norm before the convolution; linear layers, gates, transposed convolutions.
ONNX = {
    "transformers.ResNet": (),
    "pytorchcv.preresnet20_cifar10": pytest.mark.zoo,
    "transformers.Levit": pytest.mark.zoo,
    "pytorchcv.mobilenetv3_small_w7d20": pytest.mark.zoo,
    "pytorchcv.erfnet_cityscapes": pytest.mark.zoo,
}


@pytest.mark.parametrize("network", cases(NORMALISED, list(ONNX)[:3]))
def test_the_exported_graph_holds_no_batch_norm(network: Network):
    model, inputs = build(network), example(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        try:
            before = torch.export.export(model, (inputs,))
        except Exception as error:
            pytest.skip(f"torch.export cannot take it as it was: {type(error).__name__}: {str(error)[:120]}")
        assert _batch_norms(before)
        folded, changes = fold(model, inputs)
        program = torch.export.export(folded, (inputs,))
    assert norms(folded) == [change.site for change in changes.kept]
    assert _batch_norms(program) == []
    assert largest_difference(outputs(folded, inputs), floating(program.module()(inputs))) < 1e-5


def _batch_norms(program: torch.export.ExportedProgram) -> list[str]:
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    return [node.name for node in calls if "batch_norm" in str(node.target)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in ONNX.items()])
def test_the_onnx_file_holds_no_batch_norm(name: str):
    network = next(network for network in NORMALISED if network.name == name)
    model, inputs = build(network), example(network)
    folded, _ = fold(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        try:
            before = torch.onnx.export(model, (inputs,), dynamo=True, verbose=False).model_proto
        except Exception as error:
            pytest.skip(f"torch.onnx.export cannot take it as it was: {type(error).__name__}: {str(error)[:120]}")
        after = torch.onnx.export(folded, (inputs,), dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(after)
    assert "Conv" in _kinds(before) and "Conv" in _kinds(after)
    assert "BatchNormalization" not in _kinds(after)


def _kinds(model) -> set[str]:
    functions = [node.op_type for function in model.functions for node in function.node]
    return {node.op_type for node in model.graph.node} | set(functions)
