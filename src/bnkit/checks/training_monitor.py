"""Check a model while it trains."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bnkit.argument_checks import check_int, check_number
from bnkit.checks.check import check
from bnkit.checks.finding import Finding
from bnkit.checks.findings_output import Findings
from bnkit.checks.rule_needs import Need
from bnkit.checks.rule_registry import Names, selected_rules
from bnkit.errors import BnkitError, SettingsError
from bnkit.model.inspect.batches import Forward
from bnkit.model.inspect.supported_models import check_supported

if TYPE_CHECKING:
    from torch.optim import Optimizer

_log = logging.getLogger("bnkit")


class Monitor:
    """Checks a model every few hundred steps of its training, and logs each finding once.

    Call ``step`` once per training step, after the optimizer step: a check between a forward pass and its backward pass would
    disturb autograd. The first check runs all rules, later ones only those whose result may change: about statistics, gamma and
    beta. Checking does not change the model.

    A check takes as long as a few steps. It is postponed while checks would take more than ``share`` of the time since the
    monitor was made.

    Args:
        model: The model that trains. With ``DistributedDataParallel``, the wrapped model: each process checks separately.
        every: The least number of steps between two checks.
        batches: The number of recent batches that a check uses; they are kept until then.
        share: The largest share of the time that checks may take; 1 postpones none.
        on_findings: Called with the findings of each check, instead of logging them.
        optimizer, loader, ema, accumulation, processes, forward: As for ``check``.
        select, ignore, per_layer_ignores: As for ``check``.

    Attributes:
        findings: The findings of the last check; None before the first.
        steps: The number of calls of ``step``.
        looks: The steps at which it checked.

    Raises:
        SettingsError: If a number is out of range or a rule unknown.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        >>> seen = []
        >>> monitor = Monitor(model, every=2, select="BN101", on_findings=seen.append)
        >>> for _ in range(5):  # instead of training
        ...     looked = monitor.step(torch.randn(8, 2))
        >>> monitor.looks, len(seen), seen[0].codes
        ([2], 1, ('BN101',))
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 200,
        *,
        batches: int = 2,
        share: float = 0.02,
        on_findings: Callable[[Findings], object] | None = None,
        optimizer: Optimizer | None = None,
        loader: Any = None,
        ema: nn.Module | None = None,
        accumulation: int = 1,
        processes: int | None = None,
        forward: Forward | None = None,
        select: Names | None = None,
        ignore: Names | None = None,
        per_layer_ignores: Mapping[str, Names] | None = None,
    ) -> None:
        check_supported(model, runs=True)
        for name, number in (("every", every), ("batches", batches)):
            check_int(name, number)
        check_number("share", share, "a number above 0, at most 1")
        if not 0 < share <= 1:
            raise SettingsError(f"share={share}; expected a number above 0, at most 1")
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._every, self._share, self._on_findings = every, share, on_findings
        self._batches: deque[Any] = deque(maxlen=batches)
        self._rules = selected_rules(select, ignore)
        self._once = {
            "optimizer": optimizer, "loader": loader, "ema": ema, "accumulation": accumulation, "processes": processes,
        }  # fmt: skip
        self._always = {"forward": forward, "per_layer_ignores": per_layer_ignores}
        self._logged: set[tuple[str, str]] = set()
        self._failures: set[str] = set()
        self._began = time.perf_counter()
        self._spent = 0.0
        self.findings: Findings | None = None
        self.steps = 0
        self.looks: list[int] = []

    def step(self, batch: Any = None) -> Findings | None:
        """Count a step of training, and check the model if it is time.

        Args:
            batch: The batch that the model was trained on, as for ``check``: a tensor, a tuple whose first entry is the input and
                the second the class numbers, or a dictionary. None to run only the rules that need no data.

        Returns:
            The findings, if it checked and could; None otherwise. If the model cannot be checked, this is logged, and training
            continues.
        """
        self.steps += 1
        if batch is not None:
            self._batches.append(batch)
        if not self._is_time():
            return None
        began = time.perf_counter()
        findings = self._check()
        self.looks.append(self.steps)
        self._spent += time.perf_counter() - began
        if findings is not None:
            self.findings = findings
            if self._on_findings is not None:
                self._on_findings(findings)
            else:
                self._log_new(findings)
        return findings

    def _is_time(self) -> bool:
        if self.steps - (self.looks[-1] if self.looks else 0) < self._every:
            return False
        if self._share == 1:  # a check that took all the time since the start would postpone the next even so
            return True
        # The next check is expected to take as long as the earlier ones.
        expected = self._spent / len(self.looks) if self.looks else 0.0
        return self._spent + expected <= self._share * (time.perf_counter() - self._began)

    def _check(self) -> Findings | None:
        is_first = not self.looks
        codes = [rule.code for rule in self._rules if is_first or not rule.needs or Need.DATA in rule.needs]
        if not codes:
            return self.findings
        options = {**self._always, **(self._once if is_first else {})}
        try:
            return check(self._model, list(self._batches) or None, select=codes, **options)
        except BnkitError as error:
            if str(error) not in self._failures:
                self._failures.add(str(error))
                _log.warning("step %d: the batch norms could not be checked: %s", self.steps, error)
            return None

    def _log_new(self, findings: Findings) -> None:
        new: list[Finding] = [finding for finding in findings if (finding.code, finding.site) not in self._logged]
        self._logged.update((finding.code, finding.site) for finding in new)
        if new:
            _log.warning("step %d: %s", self.steps, findings.only(new))
