"""Networks that are healthy, as data, and the page about what is found on them all the same.

``python -m tests.checks.healthy`` prints ``docs/rules/healthy.md``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

import bnkit
from bnkit.checks.findings_output import Findings
from bnkit.checks.rule_pages import read_page
from bnkit.data import Examples, load, prepare
from bnkit.experiments.networks import ARCHITECTURES, network_sources
from bnkit.experiments.run_settings import Settings
from tests.zoo.networks import NORMALISED, Network, example

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Healthy:
    """A network whose statistics are those of data.

    Attributes:
        name: Of the network.
        make: The network and the data.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Batches]]


@cache
def _digits() -> Examples:
    train = prepare(load("digits"), "normal", 0.0).train
    assert isinstance(train, Examples)
    return train


def _of_the_course(name: str) -> tuple[nn.Module, Batches]:
    """Trained on digits for two epochs (a quarter of one, where that takes long), then recalibrated."""
    train = _digits()
    settings = Settings(depth=8) if name == "resnet" else Settings()
    model = network_sources([name], ["batch_norm"])["batch_norm"].build((1, 28, 28), 10, settings, seed=0)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    batches = [(train.inputs[rows], train.targets[rows]) for rows in order[: 64 * 20].split(64)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in batches[:5] if name == "resnet" else batches * 2:
        optimizer.zero_grad()
        functional.cross_entropy(model.train()(inputs), targets).backward()
        optimizer.step()
    bnkit.recalibrate(model, batches[:4])
    return model.eval(), batches[:4]


def _public(network: Network) -> tuple[nn.Module, Batches]:
    """With random weights, and the statistics of noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network.make()
    batches = [(example(network, seed=seed, batch=16), torch.arange(16) % 7) for seed in range(1, 4)]
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    bnkit.recalibrate(model.eval(), batches)
    return model, batches


HEALTHY = (
    *(Healthy(name, lambda name=name: _of_the_course(name)) for name in ARCHITECTURES),  # type: ignore[misc]
    *(Healthy(network.name, lambda network=network: _public(network)) for network in NORMALISED if network.is_quick),  # type: ignore[misc]
)


def found_on(healthy: Healthy) -> Findings:
    """All findings."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batches = healthy.make()
        return bnkit.check(model, copy.copy(batches))


def row(name: str, findings: Findings) -> str:
    """Of the table."""
    parts = []
    for code in findings.codes:
        own = findings.of(code)
        some = ", ".join(f"`{finding.site}`" for finding in own[:3]) + (", …" if len(own) > 3 else "")
        severity = own[0].severity.value
        parts.append(f"{severity} [{code}]({code}.md) × {len(own)}: {some}")
    return f"| {name} | {'; '.join(parts) or 'nothing'} |"


_TRUE = {
    "BN101": "The layer was built with a bias, and a batch norm follows it. Some of these networks have the bias so that published weights load.",
    "BN102": "The network was designed with the activation before the batch norm.",
    "BN105": "Dropout ends a residual block, and the next block begins with a layer and a batch norm.",
    "BN204": "In `two-cnn` the batch norm follows a ReLU, and some units are 0 for all digits checked. In MobileViT and "
    "EfficientNet `transformers` draws γ from a normal distribution of deviation 0.02, so that with random weights the values vanish layer "
    "by layer.",
    "BN205": "The γ of MobileViT and EfficientNet are drawn around 0, and some come out next to 0.",
    "BN111": "`transformers` carried the decay of TensorFlow (0.997, 0.9997, 0.99) over as PyTorch's momentum, where it means the reverse: trained "
    "further, or from scratch, these networks keep the statistics of their last batch. With published weights in evaluation it has no effect.",
}


def page(rows: Iterable[tuple[str, Findings]]) -> str:
    """The page, as Markdown."""
    table = list(rows)
    codes = sorted({code for _, findings in table for code in findings.codes})
    why = [f"- **{code}** {read_page(code).name}: {_TRUE[code]}" for code in codes]
    return "\n".join(
        [
            "# What healthy networks get",
            "",
            "On these networks no rule reports an error, and every warning and note is true; the tests check both. The first six",
            "networks come with bnkit, trained on its digits and recalibrated. The others are small networks from `transformers` and",
            "`pytorchcv`, with random weights and with running statistics measured on random inputs.",
            "`python -m tests.checks.healthy` prints this page.",
            "",
            "| network | found |",
            "| --- | --- |",
            *(row(name, findings) for name, findings in table),
            "",
            "Why each is true:",
            "",
            *why,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page((healthy.name, found_on(healthy)) for healthy in HEALTHY))
