"""Real processes over gloo that run the synchronised layers; ``test_sync`` starts them and reads what they write.

They are started once, three of them, since starting torch takes seconds. They meet in one group after another: all
three, then two, then groups in which one of them ends early. Every process writes one file for each scenario.
"""

from __future__ import annotations

import copy
import datetime
import io
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from bnkit.errors import BnkitError
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, sync_collectives
from tests import compile_once
from tests.child_processes import time_limit

ROOT = Path(__file__).parents[2]
LAYERS = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
STEPS = 3
# For all scenarios; a group gives up after a minute.
_MOST_SECONDS = 500.0


@dataclass(frozen=True)
class Shared:
    """A batch cut over the processes: every step of a layer has one process's numbers with the whole batch."""

    name: str
    sizes: tuple[int, ...]  # samples of each process
    shape: tuple[int, ...] = (3,)  # of one sample
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    mean: float = 0.5
    deviation: float = 2.0
    how: str = "eager"
    residual: bool = False
    masked: bool = False  # what the residual is above nothing at, in its first channel
    spoiled: int | None = None  # the sample that is not finite in the second step
    layout: torch.memory_format = torch.contiguous_format
    widened: bool = False  # the same values, rounded to the dtype, in float64

    def layer(self, **more: Any) -> nn.Module:
        layer = LAYERS[max(1, len(self.shape) - 1)](
            self.shape[0], **{"dtype": self.statistics_dtype, **self.arguments, **more}
        )
        if layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 2, torch.Generator().manual_seed(1))
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -1, 1, torch.Generator().manual_seed(2))
        return layer

    @property
    def statistics_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def batches(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each step the whole input, residual, and weights of the loss."""
        generator = torch.Generator().manual_seed(7)
        shape = (STEPS, 3, sum(self.sizes), *self.shape)
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        values[:, 0] = values[:, 0] * self.deviation + self.mean
        if self.spoiled is not None:
            values[1, 0, self.spoiled] = float("inf")
        values = values.to(self.dtype)
        return [tuple(values[step].double() if self.widened else values[step]) for step in range(STEPS)]

    def part(self, rank: int) -> slice:
        start = sum(self.sizes[:rank])
        return slice(start, start + self.sizes[rank])


def measure(scenario: Shared, layer: nn.Module, part: slice) -> dict[str, Tensor]:
    """The numbers of ``layer`` over all steps, on ``part`` of each batch."""
    numbers: dict[str, Tensor] = {}
    called = {
        "eager": lambda: layer,
        "compiled": lambda: torch.compile(layer, fullgraph=True, backend="aot_eager"),
        "checkpointed": lambda: lambda *given: checkpoint(layer, *given, use_reentrant=False),
    }.get(scenario.how, lambda: layer)()
    for step, (whole, whole_residual, loss_weights) in enumerate(scenario.batches()):
        x = whole[part].detach().contiguous(memory_format=scenario.layout).requires_grad_()
        residual = whole_residual[part].detach().requires_grad_()
        layer.zero_grad()
        more = (residual if scenario.residual else None, whole_residual[part, :1] > 0 if scenario.masked else None)
        output = called(x, *more) if any(given is not None for given in more) else called(x)
        loss = (output * loss_weights[part]).sum()
        if scenario.how == "differentiated twice":
            # A gradient penalty: that of all samples is the sum of those of the parts.
            (by_x,) = torch.autograd.grad(loss, x, create_graph=True)
            numbers[f"{step} first gradient"] = by_x.detach()
            loss = (by_x.pow(3) * loss_weights[part]).sum() + output.square().sum()
        loss.backward()
        numbers[f"{step} output"] = output.detach()
        numbers[f"{step} gradient of x"] = x.grad
        if scenario.residual:
            numbers[f"{step} gradient of residual"] = residual.grad
        for name, parameter in layer.named_parameters():
            numbers[f"{step} gradient of {name}"] = parameter.grad.clone()
        for name, buffer in layer.named_buffers():
            numbers[f"{step} {name}"] = buffer.clone()
    layer.eval()
    if layer.track_running_stats:
        numbers["evaluation"] = layer(scenario.batches()[0][0][part]).detach()
    return numbers


def _shared(rank: int, scenario: Shared) -> dict[str, Tensor]:
    return measure(scenario, scenario.layer(sync=True), scenario.part(rank))


OF_THREE = [
    Shared("uneven", (3, 4, 1)),
    Shared("images", (2, 1, 3), (3, 4, 5)),
    Shared("volumes", (2, 1, 3), (3, 2, 3, 2)),
    Shared("sequences", (2, 1, 3), (3, 4)),
    Shared("channels last", (2, 1, 3), (3, 4, 5), layout=torch.channels_last),
    Shared("last one empty", (3, 4, 0)),
    Shared("first one empty", (0, 4, 1), (3, 4, 5)),
    Shared("two empty", (0, 0, 5)),
    Shared("one sample each", (1, 1, 1)),
    Shared("two samples in all", (1, 0, 1)),
    Shared("all empty", (0, 0, 0)),
    Shared("activation", (3, 4, 1), arguments={"activation": "silu"}),
    Shared("activation in place", (3, 4, 1), arguments={"activation": "relu"}),
    Shared("residual", (3, 0, 2), (3, 4, 5), arguments={"activation": "relu"}, residual=True),
    Shared("masked", (3, 4, 1), (3, 4, 5), arguments={"activation": "relu"}, residual=True, masked=True),
    Shared("masked, whole samples", (3, 2, 4), masked=True),
    Shared("masked, differentiated twice", (3, 0, 2), (3, 4), masked=True, how="differentiated twice"),
    Shared("masked and compiled", (3, 4, 2), (3, 4), masked=True, how="compiled"),
    Shared("cumulative average", (3, 4, 1), arguments={"momentum": None}),
    Shared("no affine", (3, 4, 1), arguments={"affine": False}),
    Shared("no bias", (3, 4, 1), arguments={"bias": False}),
    Shared("no running statistics", (3, 4, 1), arguments={"track_running_stats": False}),
    Shared("skipped", (3, 4, 0), arguments={"skip_nonfinite": True}, spoiled=5),
    Shared("skipped in the average", (3, 4, 1), arguments={"skip_nonfinite": True, "momentum": None}, spoiled=0),
    Shared("reference kernel", (3, 4, 1), arguments={"kernel": "reference"}),
    Shared("compiled", (3, 4, 2), (3, 4), arguments={"activation": "relu"}, how="compiled", residual=True),
    Shared("compiled with an empty one", (3, 1, 0), how="compiled"),
    Shared("checkpointed", (3, 4, 0), how="checkpointed"),
    Shared("differentiated twice", (3, 4, 0), how="differentiated twice"),
    Shared(
        "differentiated twice, activation and residual",
        (2, 1, 3),
        (3, 2, 3),
        arguments={"activation": "tanh"},
        how="differentiated twice",
        residual=True,
    ),
    Shared("differentiated twice, no affine", (3, 4, 1), arguments={"affine": False}, how="differentiated twice"),
]
# Every kernel that can stop halfway, over its ways through a tensor, and what it adds and applies on the way. Few enough: each
# combination is a loop that is compiled once.
KERNELS = [
    Shared(f"{kernel}: {name}", sizes, shape, arguments={"kernel": kernel, **arguments}, **more)
    for kernel in ("aten", "numba")
    for name, sizes, shape, arguments, more in [
        ("features", (3, 4, 1), (3,), {}, {}),
        ("planes", (2, 1, 3), (2, 24, 24), {"activation": "relu"}, {"residual": True}),
        ("blocks", (3, 0, 2), (3, 4, 5), {"activation": "leaky_relu"}, {}),
        ("rows", (2, 1, 3), (3, 4, 5), {"activation": "relu"}, {"residual": True, "layout": torch.channels_last}),
        ("residual alone", (2, 1, 3), (3, 4, 5), {}, {"residual": True}),
        ("no affine", (2, 1, 3), (3, 4, 5), {"affine": False, "activation": "relu"}, {"residual": True}),
        ("another activation", (2, 1, 3), (2, 60, 60), {"activation": "silu"}, {}),
        ("masked", (2, 1, 3), (3, 4, 5), {"activation": "relu"}, {"masked": True}),
        ("twice", (2, 1, 3), (3, 4, 5), {"activation": "relu"}, {"residual": True, "how": "differentiated twice"}),
        ("twice, alone", (2, 1, 3), (3, 4, 5), {"activation": "leaky_relu"}, {"how": "differentiated twice"}),
        ("compiled", (2, 1, 3), (3, 4), {"activation": "relu"}, {"residual": True, "how": "compiled"}),
    ]
]
ROUNDED = [
    Shared("float32", (3, 4, 1), (3, 5, 5), dtype=torch.float32),
    Shared("float32, large mean", (9, 4, 0), (4, 7, 7), dtype=torch.float32, mean=1000, deviation=0.03),
    Shared("bfloat16", (3, 4, 1), (3, 9, 9), dtype=torch.bfloat16),
    Shared("float16", (3, 4, 1), (3, 9, 9), dtype=torch.float16),
    *(
        Shared(f"{kernel}: {name}", (3, 4, 1), shape, arguments={"kernel": kernel}, **more)
        for kernel in ("aten", "numba")
        for name, shape, more in [
            ("float32", (3, 5, 5), {"dtype": torch.float32}),
            ("float32, planes", (3, 32, 32), {"dtype": torch.float32}),
            ("float32, large mean", (4, 24, 24), {"dtype": torch.float32, "mean": 1000, "deviation": 0.03}),
            ("bfloat16", (3, 9, 9), {"dtype": torch.bfloat16}),
            ("float16", (3, 24, 24), {"dtype": torch.float16}),
        ]
    ),
]
OF_TWO = [
    Shared("two: uneven", (3, 4)),
    Shared("two: one empty", (0, 5), (3, 2, 2)),
    Shared("two: one sample each", (1, 1)),
]


def _refusal(call: Callable[..., Any], *args: Any) -> dict[str, Any]:
    try:
        call(*args)
    except BnkitError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": None}


def _one_value_in_all(rank: int) -> dict[str, Any]:
    """One sample in one process and none in the others; afterwards the group is as good as before."""
    layer = BatchNorm1d(3, sync=True)
    refused = _refusal(layer, torch.ones(1 if rank == 1 else 0, 3))
    total = torch.ones(())
    dist.all_reduce(total)
    return {**refused, "batches": int(layer.num_batches_tracked), "processes after": int(total)}


def _reduced(rank: int, scenario: Shared) -> dict[str, Tensor]:
    """As in a large group, where a sum is not taken of what is gathered."""
    most, sync_collectives._MAX_GATHERED = sync_collectives._MAX_GATHERED, 1
    try:
        return _shared(rank, scenario)
    finally:
        sync_collectives._MAX_GATHERED = most


LARGE_GROUP = [
    Shared("large group", (3, 0, 2), (3, 4, 5)),
    Shared("large group, twice", (3, 4, 0), how="differentiated twice"),
    Shared("large group, compiled", (3, 4, 2), (3, 4), how="compiled"),
]


def _refused_transform(rank: int) -> dict[str, Any]:
    return _refusal(torch.vmap(BatchNorm1d(3, sync=True)), torch.ones(2, 4, 3))


class _Counted(TorchDispatchMode):
    """Counts the collectives that are started."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in {"_c10d_functional", "c10d"} and "wait" not in str(func):
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _counting(into: dict[str, Any], what: str) -> Iterator[None]:
    with _Counted() as counted:
        yield
    into[what] = dict(counted.counts)


def _collectives(rank: int) -> dict[str, Any]:
    layer, counts = BatchNorm2d(3, sync=True, activation="relu"), {}
    x = torch.randn(rank, 3, 2, 2).requires_grad_()
    with _counting(counts, "forward"):
        output = layer(x)
    with _counting(counts, "backward"):
        output.sum().backward()
    with _counting(counts, "forward of data"):
        output = layer(x.detach())
    with _counting(counts, "backward of data"):
        output.sum().backward()
    (by_x,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with _counting(counts, "second backward"):
        by_x.square().sum().backward()
    layer.eval()
    with _counting(counts, "evaluation"):
        layer(x).sum().backward()
    untracked = BatchNorm2d(3, sync=True, track_running_stats=False).eval()
    with _counting(counts, "evaluation by the batch"):
        untracked(torch.randn(2, 3, 2, 2)).sum()
    with _counting(counts, "not synchronised"):
        BatchNorm2d(3)(torch.randn(2, 3, 2, 2))
    return counts


SUB_GROUPS = [Shared("sub-group", (3, 0, 4)), Shared("sub-group, compiled", (3, 0, 4), how="compiled")]


def _sub_group(rank: int, scenario: Shared) -> dict[str, Any]:
    """Processes 0 and 2 share; 1 is alone in its group, and no member of theirs."""
    pair, alone = dist.new_group([0, 2]), dist.new_group([1])
    layer = scenario.layer(sync=True, process_group=alone if rank == 1 else pair)
    if rank == 1:
        numbers = measure(scenario, layer, slice(0, 4))
        stranger = BatchNorm1d(3, sync=True, process_group=pair)
        return {**numbers, **_refusal(stranger, torch.ones(4, 3))}
    return measure(scenario, layer, scenario.part(rank))


def _copies(rank: int) -> dict[str, Any]:
    group = dist.new_group([0, 1, 2])
    layer = BatchNorm1d(3, sync=True, process_group=group)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twins = {
        "deepcopy": copy.deepcopy(layer),
        "copy": copy.copy(layer),
        "pickle": torch.load(file, weights_only=False),
    }
    x = torch.arange(6.0).reshape(2, 3) + rank
    expected = layer(x)
    return {
        "group of the original": layer.process_group is group,
        "groups": {name: twin.process_group for name, twin in twins.items()},
        "sync": {name: twin.sync for name, twin in twins.items()},
        "equal": {name: torch.equal(twin(x), expected) for name, twin in twins.items()},
        "repr": repr(twins["pickle"]),
        "state": list(layer.state_dict()),
    }


def network(**arguments: Any) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), BatchNorm2d(4, activation="relu", **arguments), nn.Flatten(), nn.Linear(16, 3),
        BatchNorm1d(3, **arguments),
    ).double()  # fmt: skip


SPREAD = Shared("spread", (3, 2, 0), (2, 4, 4))


def train(model: nn.Module, part: slice, processes: int, accumulate: Callable[[], Any]) -> dict[str, Tensor]:
    """Steps of SGD, the last two batches in one; the gradients of DistributedDataParallel are means, hence the factor."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = SPREAD.batches()
    for number, (x, _, _) in enumerate(batches):
        if number == 1:
            with accumulate():
                (processes * model(x[part]).pow(3).sum()).backward()
            continue
        (processes * model(x[part]).pow(3).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name.removeprefix("module."): value.detach().clone() for name, value in model.state_dict().items()}


def _data_parallel(rank: int, broadcast: bool) -> dict[str, Tensor]:
    with warnings.catch_warnings():  # the newest torch has another name for it, which the oldest does not know
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.parallel.DistributedDataParallel(network(sync=True), broadcast_buffers=broadcast)
    return train(model, SPREAD.part(rank), 3, model.no_sync)


def _compiled_data_parallel(rank: int) -> dict[str, Tensor]:
    model = nn.parallel.DistributedDataParallel(network(sync=True))
    compiled = torch.compile(model, backend="aot_eager")
    state = train(compiled, SPREAD.part(rank), 3, model.no_sync)
    return {name.removeprefix("_orig_mod.module."): value for name, value in state.items()}


def _death_before_forward(rank: int) -> dict[str, Any]:
    layer = BatchNorm1d(3, sync=True)
    dist.barrier()
    if rank == 2:
        os._exit(0)
    return _refusal(layer, torch.ones(4, 3))


def _death_before_backward(rank: int) -> dict[str, Any]:
    layer = BatchNorm2d(5, sync=True)
    output = layer(torch.randn(2, 5, 2, 2).requires_grad_())
    if rank == 1:
        os._exit(0)
    return _refusal(output.sum().backward)


def _absence(rank: int) -> dict[str, Any]:
    """Process 2 lives, and does not come to the layer."""
    group = dist.new_group([0, 1, 2], timeout=datetime.timedelta(seconds=1))
    layer = BatchNorm1d(7, sync=True, process_group=group)
    refused = {} if rank == 2 else _refusal(layer, torch.ones(4, 7))
    dist.barrier()
    return refused


def _without_a_group(rank: int) -> dict[str, Any]:
    x = torch.arange(6.0).reshape(2, 3) * (rank + 1)
    layer = BatchNorm1d(3, sync=True)
    return {"equal": torch.equal(layer(x), BatchNorm1d(3)(x)), "mean": layer.running_mean.clone()}


PHASES: list[tuple[int, dict[str, Callable[[int], dict[str, Any]]]]] = [
    (0, {"before any group": _without_a_group}),
    (
        3,
        {
            **{one.name: lambda rank, one=one: _shared(rank, one) for one in [*OF_THREE, *KERNELS, *ROUNDED]},
            "one value in all": _one_value_in_all,
            **{one.name: lambda rank, one=one: _reduced(rank, one) for one in LARGE_GROUP},
            "refused transform": _refused_transform,
            "collectives": _collectives,
            **{one.name: lambda rank, one=one: _sub_group(rank, one) for one in SUB_GROUPS},
            "copies": _copies,
            "broadcast": lambda rank: _data_parallel(rank, broadcast=True),
            "no broadcast": lambda rank: _data_parallel(rank, broadcast=False),
            "compiled, broadcast": _compiled_data_parallel,
        },
    ),
    (2, {one.name: lambda rank, one=one: _shared(rank, one) for one in OF_TWO}),
    (1, {"after the groups": _without_a_group}),
    (3, {"absence": _absence}),
    (3, {"death before forward": _death_before_forward}),
    (2, {"death before backward": _death_before_backward}),
]


# What `make test` leaves out: more loops to compile, and more graphs, of what the others have too.
EXHAUSTIVE = frozenset({
    "masked and compiled", "compiled with an empty one", "large group, compiled", "sub-group, compiled", "aten: compiled",
    *(
        f"numba: {name}"
        for name in (
            "features", "blocks", "residual alone", "twice", "no affine", "another activation", "twice, alone", "compiled", "float32, planes",
            "bfloat16", "float16",
        )
    ),
})  # fmt: skip


def start(folder: Path, *, every: bool) -> None:
    """Run the scenarios, ``every`` one or those of `make test`, in three processes, to the end."""
    more = ["every"] if every else []
    commands = [[sys.executable, "-m", "tests.nn.sync_scenarios", str(rank), str(folder), *more] for rank in range(3)]
    end = time.monotonic() + _MOST_SECONDS
    with (folder / "log").open("w") as log, time_limit(_MOST_SECONDS + 30):
        running = [
            subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=log)
            for command in commands
        ]
        try:
            for process in running:
                process.wait(max(0.0, end - time.monotonic()))
        finally:
            for process in running:
                process.kill()
                process.wait()


def main(rank: int, folder: Path, every: str = "") -> None:
    torch.set_num_threads(1)
    compile_once.install()
    for number, (size, scenarios) in enumerate(PHASES):
        if size and rank >= size:
            continue
        if size:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/meeting{number}",
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(seconds=60),
            )
        for name, scenario in scenarios.items():
            if name in EXHAUSTIVE and not every:
                continue
            try:
                result = scenario(rank)
            except Exception:
                result = {"traceback": traceback.format_exc()}
            torch.save(result, folder / f"{name} {rank}.pt")
        if size:
            dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
