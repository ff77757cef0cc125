"""The Markdown page of each rule, for ``bnkit explain`` and the documentation. Needs neither torch nor the rules."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import NamedTuple

from bnkit.errors import SettingsError
from bnkit.message_parts import did_you_mean

# The first lines of a page, which name the rule.
_HEAD = re.compile(
    r"# (?P<code>BN\d+) (?P<name>\S+)\n\nSeverity: (?P<severity>\w+).* Finds: (?P<summary>.+?)\.(?: Formerly: (?P<former>.+)\.)?\n"
)


class RulePage(NamedTuple):
    """The page of a rule, and the fields of its first lines.

    Attributes:
        code, name, former_names, severity, summary: Those of the rule.
        text: The whole page.
    """

    code: str
    name: str
    former_names: tuple[str, ...]
    severity: str
    summary: str
    text: str


def is_called(name: str, code: str, *names: str) -> bool:
    """Whether ``name`` is the code or one of the names of a rule, ignoring case."""
    return name.lower() in (code.lower(), *names)


@cache
def read_page(code: str) -> RulePage:
    """The page about the rule with that code.

    Raises:
        FileNotFoundError: If there is none.
    """
    text = resources.files("bnkit.checks").joinpath("pages", f"{code}.md").read_text(encoding="utf-8")
    head = _HEAD.match(text)
    assert head is not None, code  # ensured by the tests
    former = tuple(head["former"].split(", ")) if head["former"] else ()
    return RulePage(head["code"], head["name"], former, head["severity"], head["summary"], text)


def rule_pages() -> list[RulePage]:
    """The pages of all rules, by code."""
    files = resources.files("bnkit.checks").joinpath("pages").iterdir()
    codes = sorted(file.name.removesuffix(".md") for file in files if file.name.startswith("BN"))
    return [read_page(code) for code in codes]


def find_page(name: str) -> RulePage:
    """The page of the rule with that code, name or former name, ignoring case.

    Raises:
        SettingsError: If there is none.
    """
    for page in rule_pages():
        if is_called(name, page.code, page.name, *page.former_names):
            return page
    raise unknown_rule(name)


def unknown_rule(name: str) -> SettingsError:
    """The error for an unknown rule name."""
    codes = ", ".join(page.code for page in rule_pages())
    known = [text for page in rule_pages() for text in (page.code, page.name)]
    return SettingsError(
        f"no rule is called {name!r}; expected one of {codes}, a prefix such as BN1, or a name{did_you_mean(name, known)}"
    )
