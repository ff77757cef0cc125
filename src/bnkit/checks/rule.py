"""What a rule of the checker is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bnkit.checks.finding import Finding, Severity, Value
from bnkit.checks.need import Need

if TYPE_CHECKING:
    from torch import nn

    from bnkit.checks.context import CheckContext
    from bnkit.model.changes import Change


class Rule(ABC):
    """Something that can be wrong with the batch normalization of a model, and how it is found.

    A rule only looks: at what the observation shows, never by running or changing the model itself.

    Attributes:
        code: "BN101"; BN1xx are about structure, BN2xx about statistics, BN3xx about the set-up of training.
        name: A few words with hyphens, which select the rule like its code.
        former_names: Names that older versions gave the rule; they select it, too.
        severity: Of its findings, where ``finding`` is not told another.
        needs: What has to be given; without it the rule is not run, and the findings say so.
        summary: What it finds, in a line.
        is_fixable: Whether ``fix`` does something.
        fix_changes_keys: Whether the weights that come of it need another network: one with ``bias=False``, say.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    former_names: ClassVar[tuple[str, ...]] = ()
    severity: ClassVar[Severity]
    needs: ClassVar[frozenset[Need]] = frozenset()
    summary: ClassVar[str]
    is_fixable: ClassVar[bool] = False
    fix_changes_keys: ClassVar[bool] = False

    @abstractmethod
    def findings(self, context: CheckContext) -> Iterator[Finding]:
        """What is wrong, in the order of the model."""

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is the code, the name or a former name of the rule, however it is capitalised."""
        return name.lower() in (self.code.lower(), self.name, *self.former_names)

    def fix(self, model: nn.Module, findings: Sequence[Finding], batches: Any) -> list[Change]:
        """Mend what ``findings`` say, in place, and return what was changed. ``batches`` is None where there are no data."""
        raise NotImplementedError

    def finding(
        self,
        site: str,
        message: str,
        *,
        remedy: str,
        measured: Value = None,
        limit: Value = None,
        severity: Severity | None = None,
    ) -> Finding:
        """A finding of this rule."""
        return Finding(
            self.code, severity if severity is not None else self.severity, site, measured, limit, message, remedy
        )
