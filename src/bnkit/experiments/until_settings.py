"""The stopping rule of an experiment, which decides when no more seeds are needed, and its progress. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bnkit.duration import parse_duration
from bnkit.errors import SettingsError
from bnkit.intervals.interval import FEWEST

MAX_SEEDS = 50
# The number of seeds of the first round, in which every learning rate is trained.
FIRST_SEEDS = 1
# The default margin for accuracy: a difference of less than a point does not matter.
POINTS = 1.0


def _seconds(value: object) -> object:
    if value is None or not isinstance(value, (str, int, float)):
        return value
    try:
        return parse_duration(value)
    except SettingsError as error:
        raise ValueError(str(error)) from error


class StoppingRule(BaseModel):
    """Seeds are added until every contrast is decided, or a limit is reached.

    Attributes:
        goal: "decided": until the verdict is a gain, a loss, or less than the margin.
        margin: The largest difference that does not matter: points of accuracy, or of another metric in its own unit. None for
            one point of accuracy; other metrics then have no margin, and only a gain or a loss is a verdict.
        budget: The seconds of a call after which no more seeds are started; None for no limit.
        max_seeds: The maximum number of seeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    goal: Literal["decided"] = "decided"
    margin: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None
    budget: Annotated[float | None, BeforeValidator(_seconds)] = None
    max_seeds: Annotated[int, Field(strict=True, ge=FEWEST)] = MAX_SEEDS

    @model_validator(mode="before")
    @classmethod
    def _from_goal(cls, value: object) -> object:
        return {"goal": value} if isinstance(value, str) else value

    def largest_trifle(self, *, is_accuracy: bool) -> float:
        """The margin as a difference of the recorded figure: of accuracies from 0 to 1."""
        if is_accuracy:
            return (POINTS if self.margin is None else self.margin) / 100
        return self.margin or 0.0

    def seeds_after(self, first: tuple[int, ...]) -> tuple[int, ...]:
        """``first`` and those that may be added to them, the smallest first.

        Raises:
            SettingsError: ``first`` are more than may be.
        """
        if len(first) > self.max_seeds:
            raise SettingsError(
                f"{len(first)} seeds to begin with, and at most {self.max_seeds}; expected more `max_seeds`"
            )
        others = (seed for seed in count() if seed not in first)
        return (*first, *islice(others, self.max_seeds - len(first)))


def stopping_rule(
    until: str | None,
    margin: object = None,
    budget: str | float | None = None,
    max_seeds: object = None,
) -> StoppingRule | None:
    """The rule that a caller requests; None for none.

    Raises:
        SettingsError: If the arguments are invalid.
    """
    if until is None:
        limits = {"margin": margin, "budget": budget, "max_seeds": max_seeds}
        for name, value in limits.items():
            if value is not None:
                raise SettingsError(f"`{name}` {value} says when seeds are enough; expected `until` decided with it")
        return None
    if until != "decided":
        raise SettingsError(f"until={until!r}; expected decided")
    if margin is not None and (
        isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin < float("inf")
    ):
        raise SettingsError(
            f"margin={margin!r}; expected a number above 0: points of accuracy, or of another metric in its own unit"
        )
    most = MAX_SEEDS if max_seeds is None else max_seeds
    if isinstance(most, bool) or not isinstance(most, int) or most < FEWEST:
        raise SettingsError(
            f"max_seeds={most!r}; expected a whole number of at least {FEWEST}: fewer pairs have no verdict"
        )
    seconds = None if budget is None else parse_duration(budget)
    return StoppingRule(margin=None if margin is None else float(margin), budget=seconds, max_seeds=most)


@dataclass(frozen=True)
class Look:
    """The state of one contrast after a round of seeds.

    Attributes:
        pairs: The number of pairs of runs with the same seed.
        mean: The difference on the test set, network − baseline.
        low, high: The ends of its interval, which is valid for any number of looks; None with too few pairs.
        verdict: "gain", "loss", "nothing" (less than the margin), or "unknown".
        is_for_new_examples: Whether the interval is the one for new test examples; otherwise it is for these.
    """

    pairs: int
    mean: float
    low: float | None
    high: float | None
    verdict: str
    is_for_new_examples: bool = False

    @property
    def is_decided(self) -> bool:
        """Whether the verdict is known."""
        return self.verdict != "unknown"

    @property
    def examples(self) -> str:
        """The examples that the interval is for: "new" or "these"."""
        return "new" if self.is_for_new_examples else "these"


@dataclass(frozen=True)
class ContrastLooks:
    """One network against another under one setting, while seeds are added.

    Attributes:
        baseline, network: Their keys.
        setting: The other keys of the grid that vary, and their values here.
        baseline_lr, network_lr: The learning rates that were chosen; None before they are.
        looks: The looks in order; only the last one may be decided.
        confidence: The confidence of all looks together.
        hopeless: Why more seeds would not decide it: "runs", since too few pairs of runs finish, "diverged", since the runs that
            diverge contradict those that finish, or "examples", since the test examples are too few; empty if they may.
        needed: The estimated number of pairs that would decide; None if decided, or if no number would.
        examples_needed: The estimated number of test examples that would, with twice as many pairs; None if decided, if these
            suffice, or if no number would.
        is_contradicted: Whether the interval leads to a verdict that the runs that diverged contradict.
    """

    baseline: str
    network: str
    setting: Mapping[str, object]
    baseline_lr: float | None = None
    network_lr: float | None = None
    looks: tuple[Look, ...] = ()
    confidence: float = 0.95
    hopeless: str = ""
    needed: int | None = None
    examples_needed: int | None = None
    is_contradicted: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """A key that identifies it."""
        return self.baseline, self.network, *self.setting.items()

    @property
    def last(self) -> Look | None:
        """The last look."""
        return self.looks[-1] if self.looks else None

    @property
    def is_decided(self) -> bool:
        """Whether the verdict is known."""
        return self.last is not None and self.last.is_decided

    @property
    def is_open(self) -> bool:
        """Whether more seeds may decide it."""
        return not (self.is_decided or self.hopeless)
