"""What comes in at the door of the layers: taken alike in every way, or refused alike."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from bnkit.errors import SettingsError
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnkit.nn.functional import batch_norm
from tests.cases.kernels import KERNELS
from tests.cases.selection import selected
from tests.random_examples import is_exhaustive

NAMES = ("auto", *KERNELS)
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
X = torch.linspace(-2, 3, 4 * 3 * 5 * 5).reshape(4, 3, 5, 5)
MASK = torch.ones(4, 1, 5, 5, dtype=torch.bool)

WAYS = {
    "training": BatchNorm2d(3),
    "evaluation": BatchNorm2d(3).eval(),
    "without statistics": BatchNorm2d(3, track_running_stats=False).eval(),
    "masked": lambda x: BatchNorm2d(3)(x, mask=MASK[: len(x)]),
    "virtual": BatchNorm2d(3, virtual_batch_size=2),
    "sync": BatchNorm2d(3, sync=True),
    "activation": BatchNorm2d(3, activation="gelu"),
    "residual": lambda x: BatchNorm2d(3)(x, x),
    "empty": lambda x: BatchNorm2d(3)(x[:0]),
    "vmap": lambda x: torch.vmap(BatchNorm2d(3))(x[None]),
    "function": lambda x: batch_norm(x, None, None, training=True),
    "function in evaluation": lambda x: batch_norm(x, torch.zeros(3), torch.ones(3)),
    "empty function": lambda x: batch_norm(x[:0, 0, 0, 0], torch.zeros(0), torch.ones(0)),
    **{name: lambda x, name=name: BatchNorm2d(3, kernel=name)(x) for name in KERNELS},
}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int64, torch.bool, torch.complex64, torch.complex32, torch.float8_e4m3fn],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_float_is_refused_in_every_way(way, dtype):
    with pytest.raises(
        SettingsError, match=f"got an input of {dtype}; expected one of float32, float64, float16, bfloat16"
    ):
        WAYS[way](X.to(dtype))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0, 2.0]], "got a list; expected a tensor"),
        (X.numpy(), "got a ndarray; expected a tensor"),
        (None, "got a NoneType; expected a tensor"),
        (X.to_sparse(), "layout torch.sparse_coo; expected a dense tensor"),
    ],
    ids=["list", "array", "none", "sparse"],
)
@pytest.mark.parametrize("way", ["training", "evaluation", "reference", "function"])
def test_what_is_no_dense_tensor_is_refused(way, x, message):
    with pytest.raises(SettingsError, match=message):
        WAYS[way](x)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_is_refused():
    with pytest.raises(SettingsError, match="got a nested tensor; expected a dense tensor"):
        BatchNorm2d(3)(torch.nested.nested_tensor([X[0], X[1]]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (torch.complex(X, X), "a residual of torch.complex64"),
        (X.to_sparse(), "a residual of torch.float32, layout torch.sparse_coo"),
        (X[:1], r"a residual of shape \(1, 3, 5, 5\)"),
    ],
    ids=["complex", "sparse", "shape"],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_cannot_be_added_is_refused(name, residual, message, training):
    with pytest.raises(SettingsError, match=message):
        BatchNorm2d(3, kernel=name).train(training)(X, residual)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("role", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_statistics_that_are_no_floats_are_refused(name, dtype, role, training):
    """Statistics of integers would be rounded when they move."""
    given = {n: torch.ones(3) for n in ("weight", "bias", "running_mean", "running_var")}
    given[role] = given[role].to(dtype)
    with pytest.raises(SettingsError, match=f"a {role} of {dtype}"):
        batch_norm(X, **given, training=training, kernel=name)


LAYERS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
THEIRS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def _dtypes(name):
    """Of input and layer; a kernel that compiles for each pair gets those that people have, and all in `make test-all`."""
    pairs = itertools.product(FLOATING, FLOATING)
    if is_exhaustive() or name in ("reference", "aten"):
        return list(pairs)
    return [(one, other) for one, other in pairs if one is other or other is torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "training"),
    selected(
        itertools.product(NAMES, [(6, 4), (6, 4, 5), (8, 4, 24, 40), (3, 4, 2, 3, 3)], [True, False]),
        # Of each dtype, loops over rows and over planes are compiled.
        lambda name, shape, training: name != "numba" or (training and shape in {(6, 4), (8, 4, 24, 40)}),
    ),
)
def test_any_floating_input_goes_into_a_layer_of_any_floating_dtype(name, shape, training):
    """Whatever the size and the kernel; in a layer of the same values in float64, and as torch.nn where that takes it."""
    generator = torch.Generator().manual_seed(0)
    values, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    for of_input, of_layer in _dtypes(name):
        layer = LAYERS[len(shape)](4, kernel=name).to(of_layer).train(training)
        nn.init.uniform_(layer.weight, 1, 2, generator)
        layer.running_var.fill_(2.0)
        wide = THEIRS[len(shape)](4, dtype=torch.float64).train(training)
        wide.load_state_dict(layer.state_dict())
        x = values.to(of_input, copy=True).requires_grad_()
        output = layer(x)
        output.backward(upstream.to(of_input))
        z = x.detach().to(torch.float64, copy=True).requires_grad_()
        expected = wide(z)
        expected.backward(upstream.to(of_input).double())
        assert (output.dtype, x.grad.dtype, layer.weight.grad.dtype) == (of_input, of_input, of_layer)
        bound = ROUNDING[of_input]
        torch.testing.assert_close(output.double(), expected, rtol=bound, atol=bound)
        torch.testing.assert_close(x.grad.double(), z.grad, rtol=4 * bound, atol=4 * bound)
        bound = max(bound, ROUNDING[of_layer])
        torch.testing.assert_close(layer.running_mean.double(), wide.running_mean, rtol=bound, atol=bound)
        torch.testing.assert_close(layer.running_var.double(), wide.running_var, rtol=bound, atol=bound)
        worst = (layer.weight.grad.double() - wide.weight.grad).abs().max() / wide.weight.grad.abs().max()
        assert worst < 2 * bound


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNorm2d])
def test_a_cumulative_average_without_a_counter_trains_and_stays(kind):
    layer = kind(3, momentum=None)
    layer.num_batches_tracked = None
    assert layer(X).detach().std(unbiased=False) == pytest.approx(1, abs=1e-3)
    assert layer.running_mean.tolist() == [0, 0, 0] and layer.running_var.tolist() == [1, 1, 1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
@pytest.mark.parametrize("name", NAMES)
def test_one_of_the_statistics_alone_is_refused(name, missing, training):
    layer = BatchNorm2d(3, kernel=name).train(training)
    setattr(layer, missing, None)
    with pytest.raises(SettingsError, match=f"and no {missing}; expected both, or neither"):
        layer(X)
    given = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), missing: None}
    with pytest.raises(SettingsError, match=f"and no {missing}; expected both, or neither"):
        batch_norm(X, **given, training=training, kernel=name)


def test_without_both_the_batch_normalises_in_evaluation_too():
    layer = BatchNorm2d(3).eval()
    layer.running_mean = layer.running_var = None
    torch.testing.assert_close(layer(X), nn.functional.batch_norm(X, None, None, training=True))


@pytest.mark.parametrize("role", ["running_mean", "running_var"])
@pytest.mark.parametrize("name", NAMES)
def test_expanded_statistics_are_read_and_cannot_move(name, role):
    layer = BatchNorm2d(3, kernel=name)
    setattr(layer, role, torch.full((1,), 2.0).expand(3))
    with pytest.raises(SettingsError, match=f"a {role} that is expanded.* {role}.clone()"):
        layer(X)
    assert layer.num_batches_tracked == 0
    expected = nn.functional.batch_norm(X, layer.running_mean.clone(), layer.running_var.clone())
    torch.testing.assert_close(layer.eval()(X), expected)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_that_require_gradients_get_them_where_they_are_used(name):
    mean, var = (torch.full((3,), value, requires_grad=True) for value in (0.5, 2.0))
    batch_norm(X, mean, var, kernel=name).square().sum().backward()
    again = [t.detach().clone().requires_grad_() for t in (mean, var)]
    shaped = [t.reshape(1, 3, 1, 1) for t in again]
    ((X - shaped[0]) / (shaped[1] + 1e-5).sqrt()).square().sum().backward()
    torch.testing.assert_close([mean.grad, var.grad], [t.grad for t in again])

    layer = BatchNorm2d(3, kernel=name)
    layer.running_mean.requires_grad_()
    layer(X)
    torch.testing.assert_close(layer.running_mean.detach(), 0.1 * X.mean((0, 2, 3)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", [0, 3, None])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_input_of_one_dimension_is_given_back_as_by_pytorch(name, statistics, training):
    if statistics is None and not training:
        pytest.skip("refused by both")
    given = (None, None) if statistics is None else (torch.zeros(statistics), torch.ones(statistics))
    ours, theirs = (torch.zeros(0, requires_grad=True) for _ in range(2))
    output = batch_norm(ours, *given, training=training, kernel=name)
    expected = nn.functional.batch_norm(theirs, *given, training=training)
    output.sum().backward()
    expected.sum().backward()
    assert output.shape == expected.shape == ours.grad.shape == theirs.grad.shape == (0,)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_tensors_say_how_many_channels_there_are(name, arguments, training):
    """Pruning cuts them, and leaves ``num_features`` as it was."""
    layers = [kind(6, **arguments, **more) for kind, more in ((BatchNorm2d, {"kernel": name}), (nn.BatchNorm2d, {}))]
    for layer in layers:
        layer.train(training)
        for role, value in [*layer._parameters.items(), *layer._buffers.items()]:
            if value is not None and value.dim() == 1:
                cut = torch.arange(1.0, 7.0)[::2]
                setattr(layer, role, nn.Parameter(cut) if isinstance(value, nn.Parameter) else cut)
    ours, theirs = layers
    torch.testing.assert_close(ours(X), theirs(X))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    with pytest.raises(SettingsError, match=r"expected \(?(3|6)"):
        ours(torch.zeros(2, 6, 5, 5))
    with pytest.raises(SettingsError, match="4 channels; expected 3"):
        ours(torch.zeros(2, 4, 5, 5))
