"""What is sent to other processes is what the plan was made for."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from bnkit.data.user_data import load_data
from bnkit.errors import FactoryError
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.resolve_experiment import resolve_experiment
from bnkit.experiments.running.launch_request import Overrides
from bnkit.experiments.running.serialization import Payload, SelfContainedPayload, unpack
from bnkit.reload_changed_modules import unload
from tests.user_project import a_project  # noqa: F401 - the fixture


@pytest.mark.parametrize("given", [False, True], ids=["data by name", "data given"])
def test_so_many_examples_as_the_experiment_asks_for_arrive(given):
    content = {"name": "small", "networks": ["mlp"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}
    experiment = parse_experiment({**content, "train_examples": 50, "test_examples": 20}, "here")
    data = load_data("digits") if given else None
    planned, components = resolve_experiment(experiment, data=data)
    (payload,) = unpack(Payload(planned.experiment, Overrides(data=data)).pack())
    for there in (payload.components(), SelfContainedPayload.of(planned.experiment, components).components()):
        assert (len(there.data.train), len(there.data.test)) == (50, 20)
        assert there.data.digest == components.data.digest


_FILE = """
import sys

import numpy as np
import torch
from torch.utils.data import Dataset, random_split

class Noisy(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        return torch.rand(1, 8, 8) + row % 2, row % 2

def seeded():
    return random_split(Noisy(), [30, 10])

def own_generator():
    inputs = torch.from_numpy(np.random.default_rng().random((40, 1, 8, 8)))
    return (inputs, torch.arange(40) % 2), (inputs, torch.arange(40) % 2)
"""
_EXPERIMENT = {"name": "small", "networks": ["mlp"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}


def _there(folder, factory):
    """The plan's materials, and those that a process with other random states makes."""
    (folder / "mine.py").write_text(_FILE)
    planned, components = resolve_experiment(
        parse_experiment({**_EXPERIMENT, "data": f"{folder}/mine.py:{factory}"}, "here")
    )
    (payload,) = unpack(Payload(planned.experiment).pack())
    torch.manual_seed(5)
    np.random.seed(5)
    return components, payload.components()


def test_data_that_draw_random_numbers_are_the_same_in_every_process(tmp_path):
    here, there = _there(tmp_path, "seeded")
    assert torch.equal(here.data.train.rows, there.data.train.rows)
    assert here.data.train.survey == there.data.train.survey
    assert torch.equal(here.data.train.head(9)[0], there.data.train.head(9)[0])


def test_data_that_no_seed_determines_are_named(tmp_path):
    with pytest.raises(
        FactoryError, match=r"the data .*mine\.py:own_generator are not those .*numpy\.random\.default_rng"
    ):
        _there(tmp_path, "own_generator")


def test_a_split_that_a_shared_module_makes_is_the_same_in_every_process(tmp_path, monkeypatch):
    """The network's file imports it first."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "split_by_chance.py").write_text("import torch\nORDER = torch.randperm(40)\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nimport split_by_chance\n\n\ndef make():\n    return nn.Linear(2, 2)\n"
    )
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef data():\n    import split_by_chance\n"
        "    part = split_by_chance.ORDER.float().view(20, 2), torch.arange(20) % 2\n    return part, part\n"
    )
    content = {
        **_EXPERIMENT,
        "networks": [f"{tmp_path}/net.py:make"],
        "arms": ["no_batch_norm"],
        "data": f"{tmp_path}/mine.py:data",
    }
    digests = set()
    for seed in range(2):
        sys.modules.pop("split_by_chance", None)
        torch.manual_seed(seed)
        digests.add(resolve_experiment(parse_experiment(content, "here"))[1].data.digest)
    assert len(digests) == 1


def test_a_payload_carries_the_modules_behind_a_file(project):
    blocks = "from torch import nn\ndef hidden():\n    return nn.Sequential(nn.Linear(784, 7), nn.ReLU())\n"
    project(
        net="import blocks\nfrom torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), blocks.hidden(), nn.Linear(7, 10))\n",
        blocks=blocks,
    )
    content = {"name": "small", "networks": ["net.py:make"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}
    planned, components = resolve_experiment(parse_experiment(content, "here"))
    packed = SelfContainedPayload.of(planned.experiment, components).pack()
    (project() / "blocks.py").unlink()  # as on a machine that has no such file
    unload("blocks")
    (payload,) = unpack(packed)
    assert payload.components().build(planned.runs[0])[1][0].out_features == 7
