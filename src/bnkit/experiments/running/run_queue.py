"""The runs of a plan that no worker has taken yet. Needs no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf

from bnkit.experiments.plan import Run
from bnkit.experiments.settings import Settings

# So many for each worker are few: of these the longest comes first, so that no worker is left alone with a long one at the end.
_FEW = 4
# What says nothing about how long a run takes.
_WITHOUT_WEIGHT = {"lr", "init", "init_scale", "weight_decay", "schedule"}
_WEIGHTS = tuple(name for name in Settings.model_fields if name not in _WITHOUT_WEIGHT)


class RunQueue:
    """Runs in the order in which workers take them: that of the plan, and towards the end the longest first.

    The order has no influence on figures. Taking one is constant work, however many there are.

    Args:
        runs: In the order of the plan.
        workers: How many take them.
    """

    def __init__(self, runs: Iterable[Run], workers: int) -> None:
        self._runs, self._few = deque(runs), _FEW * workers
        self._longest: dict[tuple[object, ...], float] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def again(self, run: Run) -> None:
        """Have ``run``, which was taken, wait once more."""
        self._runs.appendleft(run)

    def took(self, run: Run, seconds: float) -> None:
        """Remember how long ``run`` took. Of those alike the longest counts: others may have diverged early."""
        kind = _kind(run)
        self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))

    def take(self) -> Run:
        """The next run. Of the last few that whose like took longest, or of whose like none has ended yet."""
        if len(self._runs) > self._few:
            return self._runs.popleft()
        run = max(self._runs, key=lambda waiting: self._longest.get(_kind(waiting), inf))
        self._runs.remove(run)
        return run


def _kind(run: Run) -> tuple[object, ...]:
    """Equal for runs that take about as long."""
    return (run.network.key, *(getattr(run.settings, name) for name in _WEIGHTS))
