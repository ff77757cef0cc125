"""HTML outputs of notebooks: the frame that all outputs share, readable on light and dark pages.

Colours are those of the page, with greys that suit both. If a viewer removes styles (an untrusted notebook), the text, tables
and pictures remain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

    from bnkit.text_table import Table

_STYLE = """
.bnkit { max-width: 60rem; line-height: 1.45; }
.bnkit p { margin: .35rem 0; }
.bnkit .headline { font-weight: 600; font-size: 1.05em; }
.bnkit .note { opacity: .72; font-size: .88em; }
.bnkit .wide { overflow-x: auto; }
.bnkit table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93em; margin: .4rem 0; }
.bnkit :is(th, td) { padding: .2rem .6rem; border-bottom: 1px solid rgba(128, 128, 128, .35); }
.bnkit .figures td { white-space: nowrap; }
.bnkit .pictures { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: flex-start; margin: .5rem 0; }
.bnkit svg { max-width: 100%; height: auto; font: 11px system-ui, sans-serif; }
.bnkit summary { cursor: pointer; }
.bnkit ul { margin: .2rem 0 .6rem; }
:is([data-jp-theme-light="false"], [theme="dark"], .vscode-dark, .theme-dark) .bnkit svg .ink { filter: brightness(1.35); }
"""


def output(*parts: Markup) -> str:
    """The parts of an output, inside the shared frame."""
    from markupsafe import Markup

    return f'<div class="bnkit"><style>{_STYLE}</style>{Markup().join(parts)}</div>'


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph of plain text, styled as a "headline" or a "note"."""
    from markupsafe import Markup

    return Markup('<p class="{}">{}</p>').format(kind, text) if kind else Markup("<p>{}</p>").format(text)


def bullets(heading: str, texts: Iterable[str]) -> Markup:
    """Plain texts as a list below a heading."""
    from markupsafe import Markup

    items = Markup().join(Markup("<li>{}</li>").format(text) for text in texts)
    return Markup("<p>{}</p><ul>{}</ul>").format(heading, items)


def wide(table: Table, kind: str = "") -> Markup:
    """A table, which scrolls if it is wider than the notebook; with the kind "figures", cells are not wrapped."""
    from markupsafe import Markup

    opening = Markup('<div class="{}">').format(f"wide {kind}".strip())
    return opening + Markup("{}</div>").format(Markup(table.to_html()))  # noqa: S704 (its cells are escaped)


def pictures(drawings: Sequence[Markup]) -> Markup:
    """SVGs side by side, wrapped at the width of the page."""
    from markupsafe import Markup

    return Markup('<div class="pictures">{}</div>').format(Markup().join(drawings)) if drawings else Markup()


def folded(title: str, *parts: Markup) -> Markup:
    """A section that is collapsed until it is clicked."""
    from markupsafe import Markup

    return Markup("<details><summary>{}</summary>{}</details>").format(title, Markup().join(parts))
