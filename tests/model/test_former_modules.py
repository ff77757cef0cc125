from __future__ import annotations

import base64
import json
import lzma
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from bnkit.model.former_modules import _TODAY

_FILE = Path(__file__).with_name("pickled_models.json")
# Whole models, pickled when their classes stood in other modules, and the first of their outputs on `_inputs`.
_PICKLED = json.loads(_FILE.read_text(encoding="utf-8"))
_LOAD = """
import base64, json, lzma, pickle, sys
for name, entry in json.load(open(sys.argv[1], encoding="utf-8")).items():
    print(name, type(pickle.loads(lzma.decompress(base64.b85decode(entry["pickle"])))).__name__)
"""


def _inputs():
    return torch.tensor([0.5, -1.0, 2.0, 0.25, -0.125]).repeat(40).view(4, 2, 5, 5)


@pytest.mark.parametrize("name", _PICKLED)
def test_a_model_that_was_pickled_whole_computes_what_it_did(name):
    entry = _PICKLED[name]
    model = pickle.loads(lzma.decompress(base64.b85decode(entry["pickle"])))  # noqa: S301 - our own file
    with torch.no_grad():
        outputs = model(_inputs()).flatten()[: len(entry["outputs"])]
    torch.testing.assert_close(outputs, torch.tensor(entry["outputs"]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_has_not_imported_bnkit_finds_them():
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(_FILE)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split()[::2] == list(_PICKLED)


def test_the_former_modules_are_those_of_today():
    for former, today in _TODAY.items():
        for name, value in vars(import_module(today)).items():
            if isinstance(value, type) and value.__module__ == today:
                assert getattr(import_module(former), name) is value


@pytest.mark.parametrize("home", ["bnkit.model.fold", "bnkit.model.edit.fold"])
@pytest.mark.parametrize(
    ("former", "today"),
    [("ScaleAndShift", "ScaleAndShift"), ("Rest", "ResidualActivation"), ("Apart", "ClonedActivation")],
)
def test_what_folding_leaves_is_found_where_it_stood(home, former, today):
    assert getattr(import_module(home), former) is getattr(import_module("bnkit.model.layers.folded"), today)
