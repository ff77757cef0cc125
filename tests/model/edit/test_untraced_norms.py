"""Several norms for one place, of which the example shows one: what folding leaves alone, and what it need not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bnkit
from bnkit.model.edit.add import add
from tests.model import third_party_layers
from tests.model.edit.test_fold import _norms, _trained

IMAGES = (4, 4, 7, 7)


class _Choosing(nn.Module):
    """A convolution, one of several steps behind it, and another layer."""

    def __init__(self, *steps: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(4, channels, 3, padding=1), nn.Conv2d(channels, 2, 1)
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        return self.out(self.steps[domain](self.conv(x)).relu())


class _ByName(_Choosing):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleDict({"first": nn.BatchNorm2d(4), "second": nn.BatchNorm2d(4)})

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        return self.out(self.steps["second" if domain else "first"](self.conv(x)).relu())


class _Attributes(_Choosing):
    """The choice is one between attributes, by ``matching``."""

    def __init__(self, other: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(4), other if other is not None else nn.BatchNorm2d(4)

    def matching(self, x: Tensor, domain: int) -> nn.Module:
        return self.second if domain else self.first

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        return self.out(self.matching(x, domain)(self.conv(x)).relu())


class _BySize(_Attributes):
    def matching(self, x: Tensor, domain: int) -> nn.Module:
        return self.first if x.shape[-1] < 8 else self.second


class _ByMode(_Attributes):
    def matching(self, x: Tensor, domain: int) -> nn.Module:
        return self.second if self.training else self.first


class _Switch(nn.Module):
    """As libraries for domain adaptation write theirs: a module that holds the norms and what is chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.norms, self.domain = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2)), 0

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[self.domain](x)


class _Switched(_Choosing):
    def __init__(self) -> None:
        super().__init__()
        self.switch = _Switch()

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        self.switch.domain = domain
        return self.out(self.switch(self.conv(x)).relu())


class _BeforeLayer(_Attributes):
    def __init__(self, other: nn.Module | None = None) -> None:
        super().__init__(other)
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        return self.out(self.conv(self.matching(x, domain)(x)).relu())


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Linear(4, 5), nn.Linear(5, 2)
        self.steps = nn.ModuleList(nn.BatchNorm1d(5) for _ in range(2))

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        return self.out(self.steps[domain](self.conv(x)).relu())


def _head() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))


LEFT = {
    "list": lambda: _Choosing(nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
    "dictionary": _ByName,
    "attributes": _Attributes,
    "a module that switches": _Switched,
    "by the size of the input": _BySize,
    "by the mode": _ByMode,
    "heads in a list": lambda: _Choosing(_head(), _head()),
    "heads as attributes": lambda: _Attributes(_head()),
    "an adapter": lambda: _Choosing(nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))),
    "none at all": lambda: _Choosing(nn.BatchNorm2d(4), nn.Identity()),
    "group norm": lambda: _Attributes(nn.GroupNorm(2, 4)),
    "instance norm": lambda: _Attributes(nn.InstanceNorm2d(4)),
    "one of another library": lambda: _Attributes(third_party_layers.Frozen2d(4)),
    "ours": lambda: _Attributes(bnkit.nn.BatchNorm2d(4)),
    "before a layer": _BeforeLayer,
    "before a layer, or a stem": lambda: _BeforeLayer(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))),
    "behind a linear layer": _Linear,
}


@pytest.mark.parametrize(
    "verb", [bnkit.fold, lambda model, x: bnkit.remove(model, x, preserve=True)], ids=["fold", "remove"]
)
@pytest.mark.parametrize("name", LEFT)
def test_a_layer_that_may_feed_others_is_left_alone(name, verb):
    torch.manual_seed(0)
    model = _trained(LEFT[name]()).eval()
    shape = (6, 4) if name == "behind a linear layer" else IMAGES
    changed, changes = verb(model, torch.randn(shape))
    reason = next(change.detail for change in changes if change.is_made)
    assert reason.startswith("into a separate scale and shift: ")
    assert "which did not run on the example" in reason
    inputs = [torch.randn(shape), torch.randn((2, 4, 9, 9) if len(shape) == 4 else shape)]
    for x in inputs:
        for domain in (0, 1):
            torch.testing.assert_close(changed.eval()(x, domain), model(x, domain), rtol=1e-5, atol=1e-5)


def test_a_lazy_norm_may_be_of_any_width():
    model = _Attributes(nn.LazyBatchNorm2d()).eval()
    _, changes = bnkit.fold(model, torch.randn(IMAGES))
    assert "conv may feed second too, which did not run on the example" in changes[0].detail


class _WithHead(_Choosing):
    """A head for training, of layers of its own, that the example does not reach."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__(nn.BatchNorm2d(4))
        self.head = nn.Sequential(*head)

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        y = self.steps[0](self.conv(x)).relu()
        return self.head(y) if domain else self.out(y)


class _Blocks(nn.Module):
    """One of several blocks, each with a layer and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(3))

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        return self.blocks[domain](x)


class _Early(nn.Module):
    """A sequence in a list, which ends early."""

    def __init__(self) -> None:
        super().__init__()
        steps = [step for _ in range(3) for step in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())]
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, domain: int = 0) -> Tensor:
        for step in self.steps[: 3 * (domain + 1)]:
            x = step(x)
        return x


FOLDED = {
    "a head": lambda: _WithHead(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
    "a head of other width": lambda: _WithHead(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)),
    "blocks": _Blocks,
    "a sequence that ends early": _Early,
    "a layer norm elsewhere": lambda: _WithHead(nn.Flatten(2), nn.LayerNorm(49)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_branches_of_their_own_stop_nothing(name):
    torch.manual_seed(0)
    model = _trained(FOLDED[name]()).eval()
    x = torch.randn(IMAGES)
    folded, changes = bnkit.fold(model, x)
    assert [change.detail.startswith("into the output of") for change in changes.made] == [True]
    for domain in (0, 1):
        torch.testing.assert_close(folded(x, domain), model(x, domain), rtol=1e-5, atol=1e-5)


def test_hosted_norms_that_did_not_run_belong_to_their_layers():
    model = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1)})

    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x, name="a", both=False):
            y = self.layers[name](x).relu()
            return self.layers["b"](y).relu() + x if both else y + x

    added = _trained(add(Chosen(), (torch.randn(IMAGES), "a", True)).model).eval()
    assert len(_norms(added)) == 2
    folded, changes = bnkit.fold(added, torch.randn(IMAGES))
    assert [change.detail for change in changes] == ["into the output of layers.a", "it did not run on the example"]
    x = torch.randn(IMAGES)
    torch.testing.assert_close(folded(x, "b"), added(x, "b"), rtol=1e-5, atol=1e-5)


def test_without_preserve_what_did_not_run_goes_too_and_is_named():
    model = _Attributes()
    twin, changes = bnkit.remove(model, torch.randn(IMAGES))
    assert {change.site: change.detail for change in changes} == {
        "first": "conv has its bias",
        "second": "it did not run on the example: whether a layer needs a bias in its place is not known",
    }
    x = torch.randn(IMAGES)
    for domain in (0, 1):
        torch.testing.assert_close(twin(x, domain), model.out(model.conv(x).relu()))
