"""Pictures of the documentation: each is shown, and on a dark page a dark version takes the place of a light screenshot."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
IMAGES = DOCS / "images"
STYLE = DOCS / "stylesheets" / "site.css"
DARK = re.findall(r'img\[src\$="/([\w-]+)\.png"\] \{ content: url\("\.\./images/([\w-]+)\.png"\)', STYLE.read_text())


def _size(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


@pytest.mark.parametrize(("light", "dark"), DARK, ids=[light for light, _ in DARK])
def test_the_dark_version_of_a_picture_has_its_size(light, dark):
    assert dark == f"{light}-dark"
    assert _size(IMAGES / f"{dark}.png") == _size(IMAGES / f"{light}.png")


def test_every_picture_is_shown_and_every_light_screenshot_has_a_dark_version():
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    names = {path.stem for path in IMAGES.glob("*.png")}
    light = {name for name in names if not name.endswith("-dark")} - {"terminal"}  # a terminal is dark on any page
    assert {light for light, _ in DARK} == light
    assert names == light | {dark for _, dark in DARK} | {"terminal"}
    assert {name for name in (*light, "terminal") if f"images/{name}.png" not in pages} == set()
