"""The page of a rule, as it is shipped. Needs no torch."""

from __future__ import annotations

from importlib import resources


def page(code: str) -> str:
    """The page about the rule with that code, as Markdown.

    Raises:
        FileNotFoundError: There is none.
    """
    return resources.files("bnkit.checks").joinpath("pages", f"{code}.md").read_text(encoding="utf-8")
