"""recalibrate in several processes, each with its part of the data."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bnkit.nn
from bnkit.errors import BnkitError, ModelError
from bnkit.model.statistics.recalibrate import recalibrate
from tests.child_processes import time_limit
from tests.model.statistics.three_layers import (
    _assert_close,
    _by_hand,
    _data,
    _model,
    _statistics,
)

SHARES = {"uneven": (13, 11, 0), "first is empty": (0, 23, 1), "none": (0, 0, 0)}


def synchronised(channels, **arguments):
    return bnkit.nn.BatchNorm2d(channels, sync=True, **arguments)


def _run_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=3,
        timeout=torch.distributed.timedelta(seconds=60),
    )
    found = {}
    for share, sizes in SHARES.items():
        for sequential in (False, True):
            part = _data().split(sizes)[rank] if sum(sizes) else _data()[:0]
            batches = list(part.split(6)) if len(part) else []
            for layer in (nn.BatchNorm2d, nn.SyncBatchNorm, synchronised):
                model = _model(layer)
                try:
                    recalibration = recalibrate(model, batches, sequential=sequential)
                except BnkitError as error:
                    found[share, sequential, layer.__name__] = str(error)
                else:
                    found[share, sequential, layer.__name__] = _statistics(model)
                    assert (recalibration.output_change is None) == (not batches)
    wrapped = DistributedDataParallel(_model(nn.BatchNorm2d))
    share = _data().split(SHARES["uneven"])[rank]
    recalibrate(wrapped, list(share.split(6)) if len(share) else [], sequential=True)
    found["wrapped"] = _statistics(wrapped.module)
    assert wrapped.require_forward_param_sync
    model = _model()
    before = _statistics(model)
    try:
        recalibrate(model, _data()[:, :2] if rank == 1 else _data())
    except ModelError as error:
        found["failed"] = str(error)
    _assert_close(_statistics(model), before, rtol=0, atol=0)
    if rank == 1:  # the others take no part
        recalibrate(model, _data(), across_ranks=False, sequential=True)
        found["alone"] = _statistics(model)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_all_processes_get_the_statistics_of_all_their_data(tmp_path):
    with time_limit(240):
        torch.multiprocessing.spawn(_run_rank, (str(tmp_path),), nprocs=3)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for share, sizes in SHARES.items():
        for sequential in (False, True):
            for layer in ("BatchNorm2d", "SyncBatchNorm", "synchronised"):
                results = [found[share, sequential, layer] for found in ranks]
                if share == "none":
                    assert all(result.startswith("batches is empty") for result in results)
                    continue
                for other in results[1:]:
                    _assert_close(other, results[0], rtol=0, atol=0)
                parts = [batch for part in _data().split(sizes) if len(part) for batch in part.split(6)]
                _assert_close(results[0], _by_hand(_model(), parts, sequential=sequential))
    for found in ranks:
        _assert_close(found["wrapped"], ranks[0]["uneven", True, "BatchNorm2d"])
    assert ranks[1]["failed"].startswith("Sequential raised RuntimeError on batch 1")
    assert ranks[0]["failed"].startswith(
        "rank 1 failed, so that all ranks stopped; there: ModelError: Sequential raised"
    )
    assert ranks[2]["failed"] == ranks[0]["failed"]
    _assert_close(ranks[1]["alone"], _by_hand(_model(), [_data()], sequential=True))
