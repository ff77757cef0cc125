"""The base class of the checker's rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bnkit.checks.finding import Finding, Severity, Value
from bnkit.checks.rule_needs import Need
from bnkit.checks.rule_pages import is_called, read_page

if TYPE_CHECKING:
    from torch import nn

    from bnkit.checks.check_context import CheckContext
    from bnkit.model.change_list import Change


class Rule(ABC):
    """A mistake in the use of batch normalization, and the code that finds it.

    A rule reads the context; it neither runs nor changes the model. Its page in ``checks/pages`` describes it.

    Attributes:
        code: "BN101"; BN1xx are about structure, BN2xx about statistics, BN3xx about the set-up of training.
        name: Hyphenated words, which select the rule like its code.
        former_names: Names of the rule in older versions; they select it, too.
        severity: The severity of its findings, unless ``finding`` gets another.
        needs: The inputs that it requires; without them the rule is skipped, and the findings say so.
        is_fixable: Whether the rule has a fix.
        fix_changes_keys: Whether the fixed weights need another network, for example one with ``bias=False``.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    former_names: ClassVar[tuple[str, ...]] = ()
    severity: ClassVar[Severity]
    needs: ClassVar[frozenset[Need]] = frozenset()
    is_fixable: ClassVar[bool] = False
    fix_changes_keys: ClassVar[bool] = False

    @property
    def summary(self) -> str:
        """A line about what it finds, from its page."""
        return read_page(self.code).summary

    @abstractmethod
    def findings(self, context: CheckContext) -> Iterator[Finding]:
        """The findings, in the order of the model."""

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is the code, the name or a former name of the rule, ignoring case."""
        return is_called(name, self.code, self.name, *self.former_names)

    def fix(self, model: nn.Module, findings: Sequence[Finding], batches: Any) -> list[Change]:
        """Fix ``findings`` in place and return the changes. ``batches`` is None without data."""
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
        """Make a finding of this rule."""
        return Finding(
            self.code, severity if severity is not None else self.severity, site, measured, limit, message, remedy
        )
