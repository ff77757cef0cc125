"""One epoch of the course's CNN on Fashion-MNIST: a plain PyTorch loop beside bnkit's.

    BNKIT_DATA=… python benchmarks/epoch.py --rounds 5

The plain loop is what tutorials show: a Dataset that turns each image into a tensor and normalises it, a DataLoader
that stacks them, one pass. Three of them: the steps that torchvision takes, the same with one worker process, as in the
course, and a transform of one's own with as few operations as it takes.
The contestants live in a process each, because what ``keep_freed_memory`` sets holds for a whole process, and
take turns, so that noise of the machine meets all of them. Medians; ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import bnkit
from bnkit.data import Splits, load, prepare
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import parse_experiment, read_recipe
from bnkit.experiments.networks import network_sources
from bnkit.experiments.plan import Run
from bnkit.experiments.resolve_experiment import resolve_experiment
from bnkit.experiments.training.learning_task import Task
from bnkit.experiments.training.training_loop import Training, train

RECIPE = "two-cnn-fashion-mnist"
# The plain loops: their Dataset, and num_workers of their DataLoader: 0 is its default, 1 is the course's.
PLAIN = {
    "plain, usual transforms": ("Usual", 0),
    "plain, usual, 1 worker": ("Usual", 1),
    "plain, lean transform": ("Lean", 0),
}
OURS, KEPT = "bnkit, default allocator", "bnkit, freed memory kept"
LAST = "bnkit, freed memory kept, channels last"


class Lean(Dataset[tuple[Tensor, int]]):
    """Each image becomes a tensor, and is normalised, when it is asked for: with as few operations as that takes."""

    def __init__(self, images: Tensor, labels: Tensor, mean: float, deviation: float) -> None:
        self.images, self.labels = images, labels
        self.mean, self.deviation = mean, deviation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        tensor = self.images[index].to(torch.float32).div(255)
        return tensor.sub(self.mean).div(self.deviation), int(self.labels[index])


class Usual(Lean):
    """The same by the steps that torchvision's FashionMNIST, ToTensor and Normalize take: by way of a PIL image."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index, 0].numpy())
        pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True))
        pixels = pixels.view(picture.size[1], picture.size[0], 1).permute(2, 0, 1).contiguous()
        tensor = pixels.to(torch.float32).div(255)
        mean = torch.as_tensor([self.mean], dtype=tensor.dtype).view(-1, 1, 1)
        deviation = torch.as_tensor([self.deviation], dtype=tensor.dtype).view(-1, 1, 1)
        if (deviation == 0).any():
            raise ValueError("a deviation is 0")
        return tensor.clone().sub_(mean).div_(deviation), int(self.labels[index])


def plain_network() -> nn.Module:
    """The course's network2 as a reader of the course would write it."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5),
            activation1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            norm1=nn.BatchNorm2d(6),
            conv2=nn.Conv2d(6, 12, 5),
            activation2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(192, 120),
            activation3=nn.ReLU(),
            norm2=nn.BatchNorm1d(120),
            fc2=nn.Linear(120, 60),
            activation4=nn.ReLU(),
            out=nn.Linear(60, 10),
        )
    )


def plain_epoch(run: Run, model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Seconds and training accuracy of one epoch as tutorials write it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    total_loss, correct, seen = 0.0, 0, 0
    model.train()
    began = time.perf_counter()
    for images, labels in loader:
        predictions = model(images)
        loss = functional.cross_entropy(predictions, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += int(predictions.argmax(dim=1).eq(labels).sum().item())
        seen += len(labels)
    return time.perf_counter() - began, correct / seen


def our_epoch(run: Run, model: nn.Module, parts: Splits) -> tuple[float, float]:
    """Seconds of training and training accuracy of one epoch as ``bnkit compare`` trains it."""
    epoch = next(train(run, Training.of(run, model, len(parts.train)), parts, Task(), None, Callback()))
    assert epoch.accuracy is not None
    return epoch.epoch_duration, epoch.accuracy


def contestant(name: str, threads: int, turns: Connection) -> None:
    """A process that trains one epoch for every seed that it is sent."""
    torch.set_num_threads(threads)
    if name in (KEPT, LAST):
        bnkit.keep_freed_memory()
    experiment = parse_experiment({**read_recipe(RECIPE), "arms": ["batch_norm"], "epochs": 1}, RECIPE)
    if name == LAST:
        grid = experiment.grid.model_copy(update={"memory_format": ("channels_last",)})
        experiment = experiment.model_copy(update={"grid": grid})
    plan, components = resolve_experiment(experiment)
    run, data = plan.runs[0], components.data
    source = network_sources(experiment.networks, experiment.arms)["batch_norm"]
    parts = prepare(data, "normal", 0.0)
    pixels = data.train.inputs.float() / 255
    normalisation = pixels.mean().item(), pixels.std(correction=0).item()
    for seed in iter(turns.recv, None):
        model = source.build(data.input_shape, data.classes, run.settings, seed)
        torch.manual_seed(seed)
        if name in PLAIN:
            ours, model = model, plain_network()
            model.load_state_dict(ours.state_dict(), strict=True)
            transforms, workers = PLAIN[name]
            images = {"Usual": Usual, "Lean": Lean}[transforms](data.train.inputs, data.train.targets, *normalisation)
            loader = DataLoader(images, batch_size=run.settings.batch_size, shuffle=True, num_workers=workers)
            turns.send(plain_epoch(run, model, loader))
        else:
            turns.send(our_epoch(run, model, parts))


def main() -> None:
    """Take turns, and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    load("fashion-mnist")  # fetch it once, before several processes want it

    spawn = multiprocessing.get_context("spawn")
    players = {}
    for name in (*PLAIN, OURS, KEPT, LAST):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=contestant, args=(name, options.threads, theirs))
        process.start()
        theirs.close()  # so that a contestant that dies ends the wait for it
        players[name] = (process, ours)

    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in players}
    try:
        for seed in range(-1, options.rounds):
            for name, (_, turns) in players.items():
                turns.send(max(seed, 0))
                answer = turns.recv()
                if seed >= 0:  # the first turn warms up
                    figures[name].append(answer)
    finally:  # also where one of them died: the others are not to wait for ever
        for _, turns in players.values():
            with suppress(OSError):
                turns.send(None)
            turns.close()
    for process, _ in players.values():
        process.join()

    sys.stdout.write(f"two-cnn with batch norm, one epoch of Fashion-MNIST, batch 1000, {options.rounds} rounds\n")
    sys.stdout.write(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}\n\n")
    sys.stdout.write(f"{'':44}{'seconds':>9}{'accuracy':>11}")
    sys.stdout.write("".join(f"{f'× {name[7:]}':>21}" for name in PLAIN) + "\n")
    summary = {}
    for name, turns_of in figures.items():
        ratios = [
            statistics.median(plain[0] / own[0] for plain, own in zip(figures[other], turns_of, strict=True))
            for other in PLAIN
        ]
        seconds = statistics.median(seconds for seconds, _ in turns_of)
        accuracy = statistics.fmean(accuracy for _, accuracy in turns_of)
        summary[name] = {
            "seconds": seconds,
            "accuracy": accuracy,
            "times_faster_than": dict(zip(PLAIN, ratios, strict=True)),
        }
        sys.stdout.write(f"{name:44}{seconds:9.2f}{accuracy:11.4f}" + "".join(f"{r:21.2f}" for r in ratios) + "\n")
    if options.json:
        options.json.write_text(json.dumps({"options": {**vars(options), "json": None}, "figures": summary}, indent=2))


if __name__ == "__main__":
    main()
