"""The designs that are trained to test the claims, each a comparison with its own budget. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnkit.claims.claim import PLAIN, WITH

# Half a decade apart.
_RATES = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]


def default_seeds(*, quick: bool) -> int:
    """The number of seeds by default. More seeds of the small designs still take two minutes, and decide more hypotheses."""
    return 7 if quick else 5


@dataclass(frozen=True)
class Design:
    """An experiment with a fixed budget.

    Attributes:
        name: The name of its folder.
        about: A sentence about what is trained.
        network: One of the course's networks; the user may replace it.
        grid: As in an experiment.
        epochs, images: The number of epochs and of training images of each run.
        arms: The networks that are compared.
        needs: Options that the network has to take; otherwise its claims are skipped.
        wishes: Settings that are left out if the network does not take them.
        own_network: Whether the question makes sense for a user's network.
        validation: The share of the images on which learning rates are chosen.
        test_images: The number of test images.
        observe, landscape, evaluate_training: As in an experiment.
        is_timed: Whether it only measures durations, which other runs at the same time would distort.
    """

    name: str
    about: str
    network: str
    grid: Mapping[str, Any]
    epochs: int
    images: int
    arms: tuple[str, ...] = (PLAIN, WITH)
    needs: frozenset[str] = frozenset()
    wishes: frozenset[str] = frozenset()
    own_network: bool = True
    validation: float = 0.0
    test_images: int = 0
    observe: int = 0
    landscape: int = 0
    evaluate_training: bool = False
    is_timed: bool = False
    show: tuple[str, ...] = field(default=("crossed",))

    @property
    def points(self) -> int:
        """The number of points of the grid."""
        grid = {**self.grid, "batch_size": self.batch_sizes}
        return math.prod(len(values) if isinstance(values, list) else 1 for values in grid.values())

    def for_network(self, network: str, options: frozenset[str]) -> Design | str:
        """The design for another network, or why it does not fit."""
        if not self.own_network:
            return f"it is about the network {self.network}"
        missing = sorted(self.needs - options)
        if missing:
            return f"{network} has no {missing[0]} to set"
        grid = {key: value for key, value in self.grid.items() if key not in self.wishes or key in options}
        return replace(self, network=network, grid=grid)

    def for_data(self, train: int, test: int, budget: float) -> Design | str:
        """The design with ``budget`` times as many images, or as many epochs more if the images run out; or why it does not fit.

        Batch sizes above the number of training images are left out.
        """
        wanted = max(1, round(self.images * budget))
        images = min(wanted, train)
        epochs = max(1, round(self.epochs * wanted / images)) if images < wanted and budget > 1 else self.epochs
        learned = images - round(images * self.validation)
        sizes = [size for size in self.batch_sizes if size <= learned]
        if not sizes:
            return f"it takes batches of {min(self.batch_sizes)}, and there are {learned} images to train on"
        return replace(
            self,
            grid={**self.grid, "batch_size": sizes},
            images=images,
            epochs=epochs,
            test_images=min(self.test_images or test, test),
        )

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes of the grid; 64 by default."""
        sizes = self.grid.get("batch_size", 64)
        return sizes if isinstance(sizes, list) else [sizes]

    def steps(self) -> int:
        """Steps of the optimizer over all runs of one seed."""
        learned = self.images - round(self.images * self.validation)
        sizes = self.batch_sizes
        steps = sum(learned // size for size in sizes)
        return steps * (self.points // len(sizes)) * self.epochs * len(self.arms)

    def content(self, data: str, seeds: Sequence[int]) -> dict[str, Any]:
        """The content of an experiment file."""
        return {
            "name": self.name,
            "about": self.about,
            "data": data,
            "networks": [self.network],
            "arms": list(self.arms),
            "seeds": list(seeds),
            "epochs": self.epochs,
            "validation": self.validation,
            "drop_last": True,
            "train_examples": self.images,
            "test_examples": self.test_images,
            "observe": self.observe,
            "landscape": self.landscape,
            "evaluate_training": self.evaluate_training,
            # Networks this small gain little from a second thread, and lose much on a busy machine.
            "threads": 1,
            "show": list(self.show),
            "grid": {**self.grid, "batch_size": self.batch_sizes},
        }


def designs(*, quick: bool) -> dict[str, Design]:
    """The designs by name: small ones for a first look, or those of the documentation."""
    return {design.name: design for design in (_QUICK if quick else _FULL)}


_DEPTH_AND_WIDTH = frozenset({"depth", "width"})
_FULL = (
    Design(
        "learning-rates",
        "One network over four decades of learning rates",
        "two-cnn", {"lr": _RATES}, epochs=8, images=6400, validation=0.1, test_images=2000,
    ),
    Design(
        "iterations",
        "The time of an iteration without, with PyTorch's layer and with ours",
        "two-cnn", {"lr": 0.1, "batch_size": 256}, epochs=8, images=6400, test_images=500, arms=(PLAIN, "torch", WITH),
        is_timed=True,
    ),
    Design(
        "initial-weights",
        "Initial weights of three kinds, each at three scales",
        "mlp", {"lr": 0.1, "init": ["default", "xavier", "kaiming"], "init_scale": [0.1, 1.0, 3.0]},
        epochs=5, images=6400, test_images=2000,
    ),
    Design(
        "activations",
        "Eight layers with sigmoid, tanh and ReLU, looked into",
        "mlp", {"lr": 0.1, "activation": ["sigmoid", "tanh", "relu"], "depth": 8, "width": 64},
        epochs=5, images=6400, test_images=2000, needs=frozenset({"activation"}), wishes=_DEPTH_AND_WIDTH, observe=50,
    ),
    Design(
        "depth-plain",
        "Plain networks of 8 to 110 layers, 64 wide, He et al.'s initial weights",
        "mlp", {"lr": 0.05, "depth": [8, 20, 56, 110], "width": 64, "init": "kaiming"},
        epochs=4, images=6400, test_images=1000, needs=frozenset({"depth"}), wishes=frozenset({"width"}),
    ),
    Design(
        "depth-residual",
        "Residual networks of 8 to 110 layers, 64 wide, He et al.'s initial weights",
        "residual-mlp", {"lr": 0.05, "depth": [8, 20, 56, 110], "width": 64, "init": "kaiming"},
        epochs=4, images=6400, test_images=1000, own_network=False,
    ),
    Design(
        "dropout",
        "Few images, many epochs, with dropout and without",
        "mlp", {"lr": 0.1, "dropout": [0.0, 0.5]},
        epochs=30, images=2000, test_images=2000, needs=frozenset({"dropout"}), evaluate_training=True,
    ),
    Design(
        "inside",
        "One network, looked into and along its steps",
        "two-cnn", {"lr": 0.1}, epochs=5, images=6400, test_images=1000, observe=25, landscape=25,
    ),
    Design(
        "batch-of-one-linear",
        "A linear network in batches of one: every run should be refused",
        "mlp", {"lr": 0.01, "batch_size": 1}, epochs=1, images=50, test_images=50, arms=(WITH,), own_network=False,
    ),
    Design(
        "batch-of-one-convolution",
        "A convolutional network in batches of one",
        "resnet", {"lr": 0.01, "batch_size": 1, "depth": 8, "width": 8},
        epochs=1, images=400, test_images=200, arms=(WITH,), own_network=False,
    ),
    Design(
        "batch-sizes",
        "A convolutional network in batches of 1 to 256, the same images for all, at two learning rates",
        "resnet", {"lr": [0.02, 0.2], "batch_size": [1, 2, 4, 8, 32, 256], "depth": 8, "width": 8},
        epochs=2, images=1000, test_images=1000, validation=0.1, wishes=_DEPTH_AND_WIDTH,
    ),
    Design(
        "order",
        "Batch norm before and after the activation",
        "mlp", {"lr": 0.1, "order": ["before", "after"]},
        epochs=8, images=6400, test_images=2000, arms=(WITH,), needs=frozenset({"order"}),
    ),
    Design(
        "prediction",
        "The textbook's LeNet, predicting by both kinds of statistics",
        "lenet", {"lr": 1.0, "batch_size": 256, "trainset": "not_normal", "init": "xavier"},
        epochs=5, images=10000, test_images=2000, arms=(WITH,),
    ),
    Design(
        "widths",
        "A network as it is, and one of a quarter of its width",
        "mlp", {"lr": 0.1, "depth": 3, "width": [32, 128]},
        epochs=8, images=6400, test_images=2000, needs=frozenset({"width"}), wishes=frozenset({"depth"}),
    ),
)  # fmt: skip

# For all of digits (1,437 images to train on, 360 to test on), with perceptrons where they suffice.
_SMALLER: dict[str, dict[str, Any]] = {
    "learning-rates": {"network": "mlp", "epochs": 8},
    "iterations": {"network": "mlp", "grid": {"lr": 0.1, "batch_size": 128}},
    "initial-weights": {"epochs": 4},
    "activations": {"epochs": 6, "observe": 20},
    "depth-plain": {"grid": {"lr": 0.05, "depth": [8, 20, 56], "width": 64, "init": "kaiming"}},
    "depth-residual": {"grid": {"lr": 0.05, "depth": [8, 20, 56], "width": 64, "init": "kaiming"}},
    "dropout": {"epochs": 12, "images": 500},
    "inside": {"network": "mlp", "observe": 10, "landscape": 10},
    "batch-of-one-convolution": {"images": 100, "test_images": 100},
    "batch-sizes": {
        "grid": {"lr": [0.02, 0.2], "batch_size": [2, 32], "depth": 8, "width": 8}, "epochs": 2, "images": 320,
    },
    "prediction": {"epochs": 8},
    "widths": {"epochs": 6},
}  # fmt: skip
_QUICK = tuple(
    replace(design, images=min(design.images, 1437), test_images=min(design.test_images, 360))
    for design in (replace(design, **_SMALLER.get(design.name, {})) for design in _FULL)
)
