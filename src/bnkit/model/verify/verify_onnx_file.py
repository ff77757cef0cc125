"""Verify that an ONNX file computes what the model computes, by onnx's reference evaluator and by onnxruntime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bnkit.errors import ModelError
from bnkit.model.inspect.example import Example
from bnkit.model.verify.verify_written_file import compare, examples_of, leaves


def prove_onnx(model: nn.Module, program: ExportedProgram, path: Path, example: Example) -> None:
    """Raise unless the ONNX file in ``path``, run by onnx's reference evaluator, computes what ``model`` does.

    If the first dimension is free, another number of rows is tried too. If onnxruntime, the usual runtime for
    deployment, is installed, it also runs the file, with several numbers of rows.

    Args:
        model: The model in evaluation mode.
        program: The program that the file was made from.
        path: The file.
        example: The example that the program was exported with.

    Raises:
        ModelError: It does not, or cannot be run; the message gives the difference of the outputs.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    from bnkit.model.verify.onnx_operators import ConvTranspose

    loaded = onnx.load(str(path))
    names = [entry.name for entry in loaded.graph.input]
    evaluator: Any = None

    def run(example: Example) -> list[Tensor]:
        nonlocal evaluator
        inputs = [_as_array(tensor) for tensor in leaves((example.arguments, example.keywords))]
        try:
            evaluator = evaluator or ReferenceEvaluator(loaded, new_ops=[ConvTranspose])
            outputs = evaluator.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:
            raise _not_run(path, "onnx's reference evaluator", error) from error
        return [_as_tensor(output) for output in outputs]

    compare(model, examples_of(model, program, example), run, path)
    if find_spec("onnxruntime") is not None:
        _prove_by_onnxruntime(model, program, path, example)


def _prove_by_onnxruntime(model: nn.Module, program: ExportedProgram, path: Path, example: Example) -> None:
    """The same by onnxruntime; files with dtypes that it does not support, such as bfloat16, are skipped."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    options.intra_op_num_threads = torch.get_num_threads()
    if any(tensor.dtype == torch.bfloat16 for tensor in leaves((example.arguments, example.keywords))):
        return  # NumPy does not support the dtype
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except errors.NotImplemented:
        return
    except Exception as error:
        raise _not_run(path, "onnxruntime", error) from error
    names = [entry.name for entry in session.get_inputs()]

    def run(example: Example) -> list[Tensor]:
        inputs = [_as_array(tensor) for tensor in leaves((example.arguments, example.keywords))]
        try:
            outputs = session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:
            raise _not_run(path, "onnxruntime", error) from error
        return [_as_tensor(output) for output in outputs]

    compare(model, examples_of(model, program, example, sizes=(1, 2, 3, 7), most=4), run, path)


def _not_run(path: Path, by: str, error: Exception) -> ModelError:
    return ModelError(
        f"{path.name} cannot be run by {by} ({type(error).__name__}: {' '.join(str(error).split())[:200]}), so that it is not "
        "known to be right; nothing was written; expected a model that ONNX can hold: write .pt2 or .safetensors"
    )


def _as_array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes  # comes with onnx

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _as_tensor(array: Any) -> Tensor:
    array = np.asarray(array)
    return torch.from_numpy(np.ascontiguousarray(array if array.dtype.kind in "fciub" else array.astype(np.float32)))
