"""Statistics over several processes against one process that has the whole batch; see ``sync_scenarios`` for the scenarios."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from torch import nn

from bnkit.errors import KernelError, SettingsError
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, sync_batch_norm
from tests.error_bounds import assert_within_error_bound
from tests.nn import sync_scenarios

pytestmark = pytest.mark.slow


def _by_name(*scenarios):
    """For ``parametrize``."""
    return [
        pytest.param(one, id=one.name, marks=[pytest.mark.exhaustive] if one.name in sync_scenarios.EXHAUSTIVE else [])
        for one in scenarios
    ]


THEIRS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@pytest.fixture(scope="module")
def results(request, tmp_path_factory, worker_id):
    """What each of ``size`` processes made of a scenario. The processes run once, whichever test asks first."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "processes"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            here = (item for item in request.session.items if item.path == request.path)
            sync_scenarios.start(folder, every=any(item.get_closest_marker("exhaustive") for item in here))

    def load(name, ranks):
        results = []
        for rank in ranks:
            path = folder / f"{name} {rank}.pt"
            assert path.exists(), f"process {rank} did not come to {name!r}: {(folder / 'log').read_text()}"
            results.append(torch.load(path))
            assert "traceback" not in results[-1], results[-1]["traceback"]
        return results

    return load


def _together(parts, name):
    """A number of the whole batch, from those of its parts."""
    values = [part[name] for part in parts]
    if "output" in name or name.endswith(("gradient of x", "gradient of residual", "first gradient", "evaluation")):
        return torch.cat(values)
    if "gradient" in name:
        return torch.stack(values).sum(0)
    for value in values:
        # All processes hold the same running statistics, to the bit, and count alike.
        torch.testing.assert_close(value, values[0], rtol=0, atol=0)
    return values[0]


def _assert_equal(parts, whole):
    assert all(part.keys() == whole.keys() for part in parts)
    for name, expected in whole.items():
        got = _together(parts, name)
        torch.testing.assert_close(
            got, expected, rtol=1e-12, atol=1e-12, equal_nan=True, msg=lambda message, name=name: f"{name}: {message}"
        )


@pytest.mark.parametrize(
    "scenario",
    _by_name(*sync_scenarios.OF_THREE, *sync_scenarios.KERNELS, *sync_scenarios.LARGE_GROUP, *sync_scenarios.OF_TWO),
)
def test_equal_to_one_process_with_the_whole_batch(results, scenario):
    parts = results(scenario.name, range(len(scenario.sizes)))
    how = scenario.how if scenario.how == "differentiated twice" else "eager"
    by_the_equations = {"kernel": "reference"} if "kernel" in scenario.arguments else {}
    whole = sync_scenarios.measure(replace(scenario, how=how), scenario.layer(**by_the_equations), slice(None))
    assert len(whole) > sync_scenarios.STEPS
    _assert_equal(parts, whole)


@pytest.mark.parametrize("scenario", _by_name(*sync_scenarios.ROUNDED))
def test_rounding_is_that_of_pytorch_with_the_whole_batch(results, scenario):
    parts = results(scenario.name, range(3))
    theirs = THEIRS[max(1, len(scenario.shape) - 1)](scenario.shape[0], dtype=scenario.statistics_dtype)
    theirs.load_state_dict(scenario.layer().state_dict())
    exact = copy.deepcopy(theirs).double()
    rounded = sync_scenarios.measure(scenario, theirs, slice(None))
    wide = sync_scenarios.measure(replace(scenario, widened=True), exact, slice(None))
    for name, number in rounded.items():
        if number.is_floating_point():
            assert_within_error_bound(_together(parts, name), number, wide[name], name)


def test_a_batch_that_is_not_finite_is_skipped_in_every_process(results):
    for part in results("skipped", range(3)):
        assert [int(part[f"{step} num_batches_skipped"]) for step in range(3)] == [0, 1, 1]
        assert [int(part[f"{step} num_batches_tracked"]) for step in range(3)] == [1, 2, 3]
        assert torch.equal(part["1 running_var"], part["0 running_var"])
        assert not torch.equal(part["2 running_var"], part["1 running_var"])


def test_one_value_in_all_processes_is_refused_in_all_of_them(results):
    for rank, result in enumerate(results("one value in all", range(3))):
        assert result["error"] == "TooFewValuesError"
        assert f"BatchNorm1d(num_features=3) got an input of shape ({int(rank == 1)}, 3)" in result["message"]
        assert "one value per channel in all 3 processes together" in result["message"]
        assert result["batches"] == 0
        assert result["processes after"] == 3


def test_one_collective_forward_and_one_backward(results):
    for counts in results("collectives", range(3)):
        assert counts == {
            "forward": {"all_gather_into_tensor": 1},
            "backward": {"all_gather_into_tensor": 1},
            "forward of data": {"all_gather_into_tensor": 1},
            "backward of data": {},  # an input that needs no gradient needs no sum over the processes
            "second backward": {"all_gather_into_tensor": 2},
            "evaluation": {},
            "evaluation by the batch": {},
            "not synchronised": {},
        }


@pytest.mark.parametrize("scenario", _by_name(*sync_scenarios.SUB_GROUPS))
def test_sub_groups(results, scenario):
    first, alone, last = results(scenario.name, range(3))
    eager = replace(scenario, how="eager")
    _assert_equal([first, last], sync_scenarios.measure(eager, eager.layer(), slice(None)))
    assert alone.pop("error") == "SettingsError"
    assert "process_group that this process is not a member of" in alone.pop("message")
    _assert_equal([alone], sync_scenarios.measure(eager, eager.layer(), slice(0, 4)))


def test_the_group_stays_out_of_copies_and_pickles(results):
    for result in results("copies", range(3)):
        assert result["group of the original"]
        assert result["groups"] == {"deepcopy": None, "copy": None, "pickle": None}
        assert result["sync"] == {"deepcopy": True, "copy": True, "pickle": True}
        assert result["equal"] == {"deepcopy": True, "copy": True, "pickle": True}
        assert result["repr"].endswith("track_running_stats=True, sync=True)")
        assert result["state"] == list(nn.BatchNorm1d(3).state_dict())


@pytest.mark.parametrize("name", ["broadcast", "no broadcast", "compiled, broadcast"])
def test_training_under_distributed_data_parallel(results, name):
    parts = results(name, range(3))
    whole = sync_scenarios.train(sync_scenarios.network(), slice(None), 1, contextlib.nullcontext)
    assert len(whole) == 14
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "ranks", "layer", "size"),
    [
        ("death before forward", [0, 1], "BatchNorm1d(num_features=3)", 3),
        ("death before backward", [0], "BatchNorm2d(num_features=5)", 2),
        ("absence", [0, 1], "BatchNorm1d(num_features=7)", 3),
    ],
)
def test_a_process_that_ends_or_does_not_come_gives_the_others_an_error_with_the_layers_name(
    results, name, ranks, layer, size
):
    for result in results(name, ranks):
        assert result["error"] == "ModelError"
        assert result["message"].startswith(f"{layer} did not receive the statistics")
        assert f"its group of {size}" in result["message"]


def test_a_kernel_that_keeps_its_own_statistics_is_refused_by_name():
    with pytest.raises(
        KernelError, match="the layer got kernel='other' with sync=True; .* use one of auto, reference, aten"
    ):
        sync_batch_norm.check_usable("other", "the layer")


def test_a_transform_is_refused(results):
    for result in results("refused transform", range(3)):
        assert result["error"] == "KernelError"
        assert "under a torch.func transform" in result["message"]


@pytest.mark.parametrize(
    ("name", "ranks"), [("before any group", range(3)), ("after the groups", [0])], ids=["no-group", "group-of-one"]
)
def test_local_where_there_is_no_other_process(results, name, ranks):
    for rank, result in zip(ranks, results(name, ranks), strict=True):
        assert result["equal"]
        torch.testing.assert_close(result["mean"], torch.tensor([1.5, 2.5, 3.5]) * (rank + 1) * 0.1)


@pytest.mark.parametrize("layer", [BatchNorm1d, BatchNorm2d, BatchNorm3d])
def test_sync_is_an_argument_and_no_state(layer):
    plain, shared = layer(3), layer(3, sync=True)
    assert list(shared.state_dict()) == list(plain.state_dict())
    assert repr(shared) == repr(plain)[:-1] + ", sync=True)"
    assert copy.deepcopy(shared).sync
    assert not plain.sync


def test_a_group_without_sync_is_refused():
    with pytest.raises(SettingsError, match=r"BatchNorm1d\(num_features=3\) got a process_group without sync=True"):
        BatchNorm1d(3, process_group=object())
