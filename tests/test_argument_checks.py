"""Settings of a wrong type or value: refused at once, with what arrived."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import SettingsError

IMAGES = torch.ones(4, 3, 9, 9) * torch.arange(4.0).view(4, 1, 1, 1)


def _normed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def _plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))


VERBS = {
    "add": lambda **settings: bnkit.add(_plain(), IMAGES, **settings),
    "remove": lambda **settings: bnkit.remove(_normed(), IMAGES, **settings),
    "fold": lambda **settings: bnkit.fold(_normed(), IMAGES, **settings),
    "convert": lambda **settings: bnkit.convert(_normed(), **settings),
    "group": lambda **settings: bnkit.convert(_normed(), "group_norm", **settings),
    "sync": lambda **settings: bnkit.convert(_normed(), "sync", **settings),
    "freeze": lambda **settings: bnkit.freeze(_normed(), **settings),
    "unfreeze": lambda **settings: bnkit.unfreeze(_normed(), **settings),
    "recalibrate": lambda **settings: bnkit.recalibrate(_normed(), IMAGES, **settings),
}
FLAGS = [("add", "preserve"), ("remove", "preserve"), ("freeze", "affine"), ("recalibrate", "sequential")]
FLAGS += [("recalibrate", "across_ranks")]
NO_FLAGS = ("yes", 1, 0, None, [], 1.0)
NO_COUNTS = ("4", True, 2.0, None, [4], torch.tensor(4))
PATTERNS = [
    ("add", "include"),
    ("remove", "exclude"),
    ("fold", "include"),
    ("convert", "exclude"),
    ("freeze", "include"),
]
PATTERNS += [("unfreeze", "exclude"), ("recalibrate", "include"), ("recalibrate", "exclude")]
NO_PATTERNS = (3, True, b"0", [3], [None], re.compile("0"), {"0": 1})
REFUSED = [
    *((verb, {name: value}, f"{name}={value!r} is ") for verb, name in FLAGS for value in NO_FLAGS),
    *(("group", {"num_groups": value}, f"num_groups={value!r} is ") for value in NO_COUNTS),
    *(("group", {"num_groups": value}, f"num_groups={value}; expected a whole number from 1") for value in (0, -4)),
    *(("recalibrate", {"batch_size": value}, f"batch_size={value!r}") for value in NO_COUNTS if value is not None),
    *(("recalibrate", {"batch_size": value}, f"batch_size={value}; expected a whole number from 1") for value in (0, -1)),
    *(("add", {"eps": value}, f"eps={value!r}") for value in ("1e-5", True, None, [1e-5], 0, -1.0, float("nan"), float("inf"))),
    *(("add", {"momentum": value}, f"momentum={value!r}") for value in ("0.1", True, [0.1], -0.1, 1.5, float("nan"))),
    *((verb, {name: value}, f"{name}={value!r} ") for verb, name in PATTERNS for value in NO_PATTERNS),
    *(("convert", {"to": value}, f"to={value!r}; expected one of") for value in (None, 3, "batch_norm", ["bnkit"], nn.BatchNorm2d)),
    *(("convert", {"dimensions": value}, f"dimensions={value!r}; expected 1, 2, 3") for value in ("2", True, 2.0, 4, 0)),
    *(("sync", {"process_group": value}, f"process_group={value!r} is ") for value in ("all", 3, [0])),
    *(("recalibrate", {"process_group": value}, f"process_group={value!r} is ") for value in ("all", -100, [0])),
    *(("convert", {"how": value}, "how ") for value in (3, "fn", [1], {3: nn.ReLU}, {nn.BatchNorm2d: 3}, {"BatchNorm2d": nn.ReLU})),
    *(("recalibrate", {"forward": value}, f"forward={value!r} is ") for value in (3, "forward", [1])),
    *(("recalibrate", {"device": value}, f"device={value!r} cannot be used") for value in ("gpu", 3.5, [1], "cuda:99")),
    *(("add", {"where": value}, f"where={value!r}; expected") for value in (None, 3, "before", ["before_activation"])),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "settings", "message"), REFUSED, ids=[f"{v}-{s}" for v, s, _ in REFUSED])
def test_invalid_input_is_refused(verb, settings, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        VERBS[verb](**settings)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        ("group", {"num_groups": np.int64(2)}),
        ("recalibrate", {"batch_size": np.int64(2)}),
        ("remove", {"preserve": np.bool_(True)}),
        ("add", {"eps": np.float32(1e-3), "momentum": None}),
        ("add", {"momentum": 1}),
        ("fold", {"include": {"1"}}),
        ("fold", {"include": (name for name in ["1"])}),
        ("fold", {"include": ()}),
        ("fold", {"exclude": np.array(["1"])}),
        ("convert", {"how": {}}),
        ("recalibrate", {"device": torch.device("cpu")}),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_equivalent_arguments_are_accepted(verb, settings):
    VERBS[verb](**settings)


def test_a_sparse_tensor_cannot_be_split_into_batches():
    with pytest.raises(SettingsError, match="batches is a tensor of layout torch.sparse_coo, .* expected a dense one"):
        bnkit.recalibrate(_normed(), IMAGES.to_sparse())
