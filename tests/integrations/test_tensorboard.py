"""The event files, read back as TensorBoard reads them."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import SettingsError
from tests.experiments import tiny_experiment

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # protobuf's and NumPy's, at TensorBoard's import
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def plain():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))


def with_batch_norm():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), bnkit.nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)
    )


def _images():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return (images[:45], targets[:45]), (images[45:], targets[45:])


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    networks = {"no_batch_norm": plain, "batch_norm": with_batch_norm}
    grid = {"lr": [0.05], "batch_size": [16], "optimizer": ["sgd"]}
    return bnkit.compare(
        networks,
        _images(),
        grid,
        1,
        epochs=2,
        validation=0.2,
        observe=2,
        out=tmp_path_factory.mktemp("r"),
        tensorboard=True,
    )


@pytest.fixture(scope="module")
def written(comparison):
    folders = sorted((comparison.folder.path / "tensorboard").iterdir())
    sizes = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    return {folder.name: EventAccumulator(str(folder), sizes).Reload() for folder in folders}


def test_every_run_of_the_plan_is_a_run_of_tensorboard(comparison, written):
    names = [f"{run.number:04}-{run.network.key}-seed{run.seed}-{run.run_id}" for run in comparison.plan]
    assert list(written) == names


def test_what_was_seen_in_the_layers_stands_at_its_steps(comparison, written):
    run, events = comparison.plan.runs[1], list(written.values())[1]
    entries = [entry for epoch in comparison.records[run.run_id].epochs for entry in epoch.layers]
    assert [entry["step"] for entry in entries] == [0, 2, 4]
    for tag, value in (
        ("layers/1/gamma_mean", lambda layers: layers["1"]["gamma"]["mean"]),
        ("layers/4/update_ratio", lambda layers: layers["4"]["update_ratio"]),
        ("layers/2/dead", lambda layers: layers["2"]["dead"]),
    ):
        assert [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events.Scalars(tag)] == [
            (entry["step"], value(entry["layers"])) for entry in entries
        ]


def test_scalars_are_the_recorded_figures(comparison, written):
    for run, events in zip(comparison.plan, written.values(), strict=True):
        epochs = comparison.records[run.run_id].epochs
        for name in ("loss", "accuracy", "test_accuracy", "gradient_norm"):
            assert [(e.step, pytest.approx(e.value, rel=1e-6)) for e in events.Scalars(name)] == [
                (epoch.epoch, getattr(epoch, name)) for epoch in epochs
            ]


def test_histograms_of_every_parameter_gamma_and_beta_among_them(comparison, written):
    events = written[list(written)[1]]
    assert set(events.Tags()["histograms"]) == {"0.weight", "1.weight", "1.bias", "4.weight", "4.bias"}
    last = events.Histograms("1.weight")[-1]
    gamma = comparison.load(2)[1].gamma
    assert (last.step, last.histogram_value.num) == (2, 2.0)
    assert last.histogram_value.sum == pytest.approx(gamma.sum().item(), rel=1e-6)


def test_the_graph_and_the_first_images(written):
    for events in written.values():
        assert events.Tags()["graph"]
        assert "aten::_convolution" in {node.op for node in events.Graph().node}
        (image,) = events.Images("first_batch")
        assert (image.width, image.height) == (8 * 8, 2 * 8)  # 16 images of 8×8, eight in a row


def test_hyper_parameters_have_the_same_keys_in_every_run(written):
    found = []
    for events in written.values():
        metadata = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        start = plugin_data_pb2.HParamsPluginData.FromString(metadata).session_start_info
        found.append({key: value.string_value or value.number_value for key, value in start.hparams.items()})
    assert [set(keys) for keys in found] == [{"network", "seed", "lr", "batch_size", "optimizer"}] * 2
    assert (found[1]["network"], found[1]["lr"], found[1]["optimizer"]) == ("batch_norm", 0.05, "sgd")


def test_looking_changes_no_figure(comparison, tmp_path):
    networks = {"no_batch_norm": plain, "batch_norm": with_batch_norm}
    grid = {"lr": [0.05], "batch_size": [16], "optimizer": ["sgd"]}
    unseen = bnkit.compare(networks, _images(), grid, 1, epochs=2, validation=0.2, observe=2, out=tmp_path / "r")
    assert tiny_experiment.figures(unseen) == tiny_experiment.figures(comparison)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(SettingsError, match=r"pip install 'bnkit\[tensorboard\]'"):
        bnkit.compare(
            tiny_experiment.NETWORKS,
            tiny_experiment.data(),
            out=tmp_path / "r",
            tensorboard=True,
            **tiny_experiment.EXPERIMENT,
        )
