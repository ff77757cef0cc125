"""What is sent to other processes is what the plan was made for."""

from __future__ import annotations

import pytest

from bnkit.data.custom import data_called
from bnkit.experiments.experiment import experiment_from
from bnkit.experiments.parcel import Parcel, WholeParcel, unpack
from bnkit.experiments.settle import settle


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
