"""What exporters make of the layers: it computes what the layer computes, whatever the layer's flags, in training too."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
from torch import nn

from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnkit.nn.functional import batch_norm
from tests.cases.selection import selected

pytestmark = [
    pytest.mark.slow,
    # torch.onnx's own, of what torch.export and the standard library are about to take away.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

SHAPE = (6, 3, 4, 5)
WITHOUT = {"track_running_stats": False}


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def _with(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


class _Called(nn.Module):
    """A layer, or the function, with what it takes besides x."""

    def __init__(self, layer, adds=False, masked=False):
        super().__init__()
        self.layer, self.adds, self.masked = layer, adds, masked

    def forward(self, x, residual, mask):
        more = ({"residual": residual} if self.adds else {}) | ({"mask": mask} if self.masked else {})
        return self.layer(x, **more)


class _Function(nn.Module):
    def __init__(self, keeps):
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 0.5) if keeps else None)
        self.register_buffer("var", torch.full((3,), 2.0) if keeps else None)

    def forward(self, x):
        return batch_norm(x, self.mean, self.var, training=self.training or self.mean is None)


CASES = {
    "plain": lambda: _Called(BatchNorm2d(3)),
    "without statistics": lambda: _Called(BatchNorm2d(3, **WITHOUT)),
    "without anything": lambda: _Called(BatchNorm2d(3, affine=False, **WITHOUT)),
    "without beta": lambda: _Called(BatchNorm2d(3, bias=False, **WITHOUT)),
    "activation": lambda: _Called(BatchNorm2d(3, activation="gelu", **WITHOUT)),
    "module": lambda: _Called(BatchNorm2d(3, activation=nn.Hardswish())),
    "residual": lambda: _Called(BatchNorm2d(3, activation="relu", **WITHOUT), adds=True),
    "mask": lambda: _Called(BatchNorm2d(3), masked=True),
    "mask and residual": lambda: _Called(BatchNorm2d(3, **WITHOUT), adds=True, masked=True),
    "virtual": lambda: _Called(BatchNorm2d(3, virtual_batch_size=4)),
    "average": lambda: _Called(BatchNorm2d(3, momentum=None)),
    "skipping": lambda: _Called(BatchNorm2d(3, skip_nonfinite=True)),
    "sync": lambda: _Called(BatchNorm2d(3, sync=True)),
    "half": lambda: _Called(BatchNorm2d(3, dtype=torch.float16)),
    "double": lambda: _Called(BatchNorm2d(3, dtype=torch.float64)),
    "equations": lambda: _Called(BatchNorm2d(3, kernel="reference", **WITHOUT)),
    "aten": lambda: _Called(BatchNorm2d(3, kernel="aten", **WITHOUT)),
    "statistics taken away": lambda: _Called(_with(BatchNorm2d(3), running_mean=None, running_var=None)),
    "not tracked any more": lambda: _Called(_with(BatchNorm2d(3), track_running_stats=False)),
    "no counter": lambda: _Called(_with(BatchNorm2d(3, momentum=None), num_batches_tracked=None)),
    "function": lambda: _Called(_Function(keeps=True)),
    "function without statistics": lambda: _Called(_Function(keeps=False)),
}


def _made(make, training):
    model = make().train(training)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 2, torch.Generator().manual_seed(1))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(torch.linspace(0.5, 2, 3))
    return model


def _arguments(examples):
    shape = (examples, *SHAPE[1:])
    mask = torch.arange(examples * SHAPE[-1]).reshape(examples, 1, 1, -1) % 3 > 0
    return _random(*shape), _random(*shape, seed=4), mask.expand(examples, 1, *SHAPE[2:]).contiguous()


# What is exported of each is another graph; the rest of `CASES` are flags that choose among these.
GRAPHS = ("plain", "without statistics", "activation", "residual", "mask and residual", "virtual", "average", "double", "function")  # fmt: skip


@pytest.mark.parametrize(
    ("case", "training"),
    selected(
        itertools.product(CASES, [True, False]),
        lambda case, training: case in GRAPHS if training else case in GRAPHS[:3],
    ),
)
def test_exported_programs_compute_the_same_and_move_the_same_statistics(case, training):
    model, arguments = _made(CASES[case], training), _arguments(6)
    for decomposed in (False, True):
        program = torch.export.export(copy.deepcopy(model), arguments)
        assert not any("bnkit" in str(node.target) for node in program.graph.nodes)
        exported = (program.run_decompositions() if decomposed else program).module()
        eager = copy.deepcopy(model)
        torch.testing.assert_close(exported(*arguments), eager(*arguments), rtol=1e-5, atol=1e-5)
        buffers = dict(exported.named_buffers())
        for name, buffer in eager.named_buffers():
            if name in buffers:
                torch.testing.assert_close(buffers[name], buffer, rtol=1e-3 if case == "half" else 1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "training"),
    selected(
        itertools.product(CASES, [True, False]),
        lambda case, training: case in (*GRAPHS[2:5], "virtual", "function") if training else case == "plain",
    ),
)
def test_onnx_computes_the_same(case, training):
    """By the reference evaluator of ``onnx``; torch.nn's own layer, in training, does not."""
    evaluator, model, arguments = _evaluator(), _made(CASES[case], training), _arguments(6)
    found = _onnx(evaluator, copy.deepcopy(model), arguments)
    torch.testing.assert_close(found, model(*arguments).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "training"),
    selected(
        itertools.product(
            [(6, 3), (6, 3, 4), (3, 3, 2, 3, 4)], [torch.float32, torch.float16, torch.float64], [True, False]
        ),
        lambda shape, dtype, training: (
            (len(shape), dtype, training)
            in {(2, torch.float16, True), (3, torch.float64, False), (5, torch.float32, True)}
        ),
    ),
)
def test_onnx_computes_the_same_of_any_shape_and_dtype(shape, dtype, training):
    kind = BatchNorm3d if len(shape) == 5 else BatchNorm1d
    evaluator, model, x = _evaluator(), _made(lambda: nn.Sequential(kind(3)), training), _random(*shape).to(dtype)
    bound = 1e-2 if dtype is torch.float16 else 1e-5
    found = _onnx(evaluator, copy.deepcopy(model), (x,))
    torch.testing.assert_close(found, model(x).detach(), rtol=bound, atol=bound)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", ["plain", "without statistics", "mask", "equations", "function"])
def test_another_number_of_examples_than_at_the_export(case, training):
    """A trace that took the number of values that count for a constant was wrong for every other mask."""
    model, arguments = _made(CASES[case], training), _arguments(9)
    expected = copy.deepcopy(model)(*arguments)
    examples = torch.export.Dim("examples", min=2, max=64)
    shapes = ({0: examples}, {0: examples}, {0: examples})
    program = torch.export.export(copy.deepcopy(model), _arguments(6), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(*arguments), expected, rtol=1e-5, atol=1e-5)
    traced = torch.jit.trace(copy.deepcopy(model), _arguments(6), check_trace=False)
    torch.testing.assert_close(traced(*arguments), expected, rtol=1e-5, atol=1e-5)


def _evaluator():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator


def _onnx(evaluator, model, arguments):
    """The output by ONNX."""
    import onnx

    file = io.BytesIO()
    torch.onnx.export(model, arguments, dynamo=True, verbose=False).save(file)
    graph = onnx.load_from_string(file.getvalue())
    values = [a.numpy() for a in arguments]
    named = dict(zip((i.name for i in graph.graph.input), values, strict=True))
    return torch.from_numpy(evaluator(graph).run(None, named)[0])
