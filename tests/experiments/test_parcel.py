"""What is sent to other processes is what the plan was made for."""

from __future__ import annotations

import pytest

from bnkit.data.custom import data_called
from bnkit.experiments.experiment import experiment_from
from bnkit.experiments.parcel import Parcel, WholeParcel, unpack
from bnkit.experiments.settle import settle
from bnkit.stale_modules import forget
from tests.projects import a_project  # noqa: F401 - the fixture


@pytest.mark.parametrize("given", [False, True], ids=["data by name", "data given"])
def test_so_many_examples_as_the_experiment_asks_for_arrive(given):
    content = {"name": "small", "networks": ["mlp"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}
    experiment = experiment_from({**content, "train_examples": 50, "test_examples": 20}, "here")
    data = data_called("digits") if given else None
    planned, materials = settle(experiment, data=data)
    (parcel,) = unpack(Parcel(planned.experiment, data=data).pack())
    for there in (parcel.materials(), WholeParcel.of(planned.experiment, materials).materials()):
        assert (len(there.data.train), len(there.data.test)) == (50, 20)
        assert there.data.digest == materials.data.digest


def test_a_whole_parcel_has_the_modules_behind_a_file(project):
    blocks = "from torch import nn\ndef hidden():\n    return nn.Sequential(nn.Linear(784, 7), nn.ReLU())\n"
    project(
        net="import blocks\nfrom torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), blocks.hidden(), nn.Linear(7, 10))\n",
        blocks=blocks,
    )
    content = {"name": "small", "networks": ["net.py:make"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}
    planned, materials = settle(experiment_from(content, "here"))
    packed = WholeParcel.of(planned.experiment, materials).pack()
    (project() / "blocks.py").unlink()  # as on a machine that has no such file
    forget("blocks")
    (parcel,) = unpack(packed)
    assert parcel.materials().build(planned.runs[0])[1][0].out_features == 7
