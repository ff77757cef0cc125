"""The frame of what a notebook shows."""

from __future__ import annotations

import torch
from torch import nn

import bnkit
from bnkit.notebook_html import bullets, folded, output, paragraph, pictures, wide
from bnkit.report.answer_text import Answer
from bnkit.text_table import Table


def test_texts_are_escaped():
    page = output(
        paragraph("<a>", "note"),
        bullets("<b>", ["<c>"]),
        folded("<d>", paragraph("<e>")),
        wide(Table(["<f>"], [["<g>"]])),
    )
    for letter in "abcdefg":
        assert f"&lt;{letter}&gt;" in page and f"<{letter}>" not in page.replace("<b></b>", "")
    assert page.startswith('<div class="bnkit"><style>') and page.endswith("</div>")


def test_no_pictures_take_no_room():
    assert pictures([]) == ""


def test_changes_and_an_answer_show_themselves():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    changes = bnkit.add(model, torch.rand(3, 1, 4, 4)).changes
    page = changes._repr_html_()
    assert page.startswith('<div class="bnkit">') and page.endswith(f"<p>{changes.summary}</p>")
    answer = Answer((), (), 2)
    assert '<p class="headline">There is nothing to compare yet.</p>' in answer._repr_html_()
