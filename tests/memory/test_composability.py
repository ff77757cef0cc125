"""recompute under what else PyTorch does to a training step."""

from __future__ import annotations

import contextlib
import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import bnkit
from bnkit.errors import ModelError
from tests.cases.selection import selected
from tests.memory.networks import NETWORKS, assert_same, batch, held, normalised, resnet, step, vgg


@pytest.fixture
def compiled_anew():
    """torch.compile gives up on a function after eight versions of it; those of other tests do not count."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which a reset leaves as they are
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_refused_inside_a_compiled_function(compiled_anew, whole):
    model, (x, _) = vgg("torch"), batch()

    @torch.compile(fullgraph=whole, backend="eager")
    def loss():
        with bnkit.recompute(model):
            return model(x).sum()

    expected = torch._dynamo.exc.Unsupported if whole else ModelError
    with pytest.raises(expected, match="recompute was entered inside a function that torch.compile compiles"):
        loss()


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap])
def test_refused_under_a_transform(transform):
    norm = nn.BatchNorm1d(3)

    def loss(x):
        with bnkit.recompute(norm):
            return norm(x).sum()

    with pytest.raises(ModelError, match="recompute was entered under a transform of torch.func"):
        transform(loss)(torch.randn(4, 5, 3))


def test_a_transform_inside_is_refused_by_pytorch():
    norm = nn.BatchNorm1d(3).eval()
    with bnkit.recompute(norm), pytest.raises(RuntimeError, match="saved tensor hooks"):
        torch.func.grad(lambda x: norm(x).sum())(torch.randn(4, 3))


@pytest.mark.slow
def test_around_a_compiled_model(compiled_anew):
    """Nothing is gained, nothing is lost, and nothing is compiled again."""
    plain, (x, targets) = vgg("torch"), batch()
    compiled = torch.compile(copy.deepcopy(plain), backend="aot_eager", fullgraph=True)
    results = []
    for again in (False, True, False):
        compiled.load_state_dict({f"_orig_mod.{name}": value for name, value in plain.state_dict().items()})
        compiled.zero_grad()
        with bnkit.recompute(compiled) if again else contextlib.nullcontext():
            loss = functional.cross_entropy(compiled(x), targets)
        loss.backward()
        results.append([loss, *(p.grad for p in compiled.parameters())])
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, results[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "norm"),
    selected(product(NETWORKS, ["torch", "numba"]), lambda network, norm: (network, norm) != ("resnet", "numba")),
)
def test_under_autocast(network, norm):
    torch.manual_seed(0)
    model, (x, targets) = NETWORKS[network](norm), batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))
        assert held(model, x, targets, again=True) <= 0.6 * held(model, x, targets, again=False)


class Checkpointed(nn.Module):
    """A network of which a part is under activation checkpointing."""

    def __init__(self, norm: str, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.inner = nn.Sequential(*normalised(norm, 4), nn.Conv2d(4, 4, 3), *normalised(norm, 4))
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), *normalised(norm, 4), nn.Flatten(), nn.LazyLinear(10))
        self.reentrant = reentrant

    def forward(self, x):
        return self.last(checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["torch", "functional", "aten", "numba", "reference"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_around_activation_checkpointing(norm, reentrant):
    torch.manual_seed(0)
    model, (x, targets) = Checkpointed(norm, reentrant), batch(side=8)
    model(x)
    assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))


@pytest.mark.parametrize("kernel", ["aten", "numba", "reference"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_statistics_of_ours_move_once_under_checkpointing(kernel, reentrant, again):
    torch.manual_seed(0)
    model, (x, targets) = Checkpointed(kernel, reentrant), batch(side=8)
    model(x)
    plain = copy.deepcopy(model)
    plain.forward = lambda x: plain.last(plain.inner(plain.first(x)))
    functional.cross_entropy(plain(x), targets).backward()
    with bnkit.recompute(model) if again else contextlib.nullcontext():
        loss = functional.cross_entropy(model(x), targets)
    loss.backward()
    for (name, buffer), expected in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, expected), name


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("converts", "times"), [(False, 2), (True, 1)])
def test_statistics_of_torch_move_twice_under_checkpointing_until_they_are_converted(reentrant, converts, times):
    """PyTorch's layers do so by themselves, and the context changes nothing about what they do."""
    model, (x, targets) = Checkpointed("torch", reentrant), batch(side=8)
    model(x)
    if converts:
        model, _ = bnkit.convert(model)
    before = int(model.inner[0].num_batches_tracked)
    with bnkit.recompute(model):
        loss = functional.cross_entropy(model(x), targets)
    loss.backward()
    assert int(model.inner[0].num_batches_tracked) - before == times


@pytest.mark.parametrize("reentrant", [False, True])
def test_inside_activation_checkpointing(reentrant):
    """In the backward pass, the part runs again with the context in it."""
    torch.manual_seed(0)
    part = nn.Sequential(nn.Conv2d(3, 4, 1), *normalised("aten", 4), nn.Conv2d(4, 4, 1))
    x = torch.randn(4, 3, 8, 8)

    def run(x):
        with bnkit.recompute(part):
            return part(x)

    results = []
    for function in (part, lambda x: checkpoint(run, x, use_reentrant=reentrant)):
        x_copy = x.clone().requires_grad_()
        results.append(
            torch.autograd.grad(function(x_copy).square().sum(), [x_copy]) if not reentrant else _all(function, x_copy)
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def _all(function, x):
    function(x).square().sum().backward()
    return [x.grad]


@pytest.fixture
def one_process(tmp_path):
    """A group of this process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("norm", ["torch", "auto"])
def test_in_distributed_data_parallel(one_process, norm):
    torch.manual_seed(0)
    model, (x, targets) = resnet(norm), batch()
    results = []
    for again in (False, True):
        distributed = DistributedDataParallel(copy.deepcopy(model))
        with bnkit.recompute(distributed) if again else contextlib.nullcontext() as recomputation:
            loss = functional.cross_entropy(distributed(x), targets)
        loss.backward()
        results.append([loss, *(p.grad for p in distributed.parameters()), *distributed.buffers()])
    assert recomputation.dropped > 8
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_scripted_model():
    """No module is called from Python in it; the graph is the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(copy.deepcopy(model))
    x = torch.randn(4, 3, 8, 8)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with torch.jit.optimized_execution(False), bnkit.recompute(scripted):
        loss = scripted(x).square().sum()
    gradients = torch.autograd.grad(loss, list(scripted.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
