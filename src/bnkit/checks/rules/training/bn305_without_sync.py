"""BN305."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed
from torch import nn
from torch.nn.parallel import DataParallel

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.checks.rules.training.small_batches import ENOUGH, batch_size_of, cost
from bnkit.message_parts import plural


class WithoutSync(Rule):
    """Several processes or devices with few examples each, and separate statistics in each."""

    code = "BN305"
    name = "without-sync"
    severity = Severity.WARNING
    needs = frozenset({Need.LOADER})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        size = batch_size_of(context.training.loader)
        parts = _devices(context.model)
        processes = parts or (_processes() if context.training.processes is None else context.training.processes)
        if size is None or processes < 2:
            return
        own = max(1, size // parts) if parts else size  # DataParallel splits the batch; each process has its own
        alone = [p for p, norm in context.norms.items() if not norm.is_frozen and not _is_synchronised(p.module)]
        if own < ENOUGH and alone:
            more = f" and {plural(len(alone) - 1, 'more batch norm')}" if len(alone) > 1 else ""
            yield self.finding(
                alone[0].name,
                f"it{more} uses statistics of {plural(own, 'example')} in each of {processes} "
                f"{'devices' if parts else 'processes'} ({cost(own)})",
                remedy='bnkit.convert(model, to="sync")' + (" with DistributedDataParallel" if parts else ""),
                measured=own,
                limit=ENOUGH,
            )


def _devices(model: nn.Module) -> int:
    """The number of devices over which this process splits a batch; 0 if it does not."""
    return max((len(m.device_ids) for m in model.modules() if isinstance(m, DataParallel)), default=0)


def _processes() -> int:
    initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialised else 1


def _is_synchronised(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm) or bool(getattr(module, "sync", False))
