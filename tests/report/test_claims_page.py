"""The page of the verdicts, as text."""

from __future__ import annotations

import re
from pathlib import Path

from bnkit.experiments.claims import CLAIMS, Finding, Judged, designs, judge
from bnkit.experiments.claims.verdicts import Question
from bnkit.report.claims_page import claims_page
from bnkit.report.verdicts import Asked, Verdicts


def _verdicts(**facts):
    design = designs(quick=True)
    effects = [{0: 0.5, 1: 0.6, 2: 0.55, 3: 0.52}, {0: -0.4, 1: 0.5}]
    judged = judge([Question(values, 0.1) for values in effects])
    asked = [Asked(c, design[c.design], j, e) for c, j, e in zip(CLAIMS, judged, effects, strict=False)]
    asked.append(Asked(CLAIMS[2], None, Judged(Finding.NOT_ASKED, None), {}, "<b>mine</b> has no depth to set"))
    return Verdicts(Path("results/claims"), asked, 4, "bnkit claims", {"torch": "2", **facts})


def test_every_verdict_has_its_row_and_its_picture_in_the_right_place():
    text = claims_page(_verdicts(machine="<script>"))
    assert re.findall(r'<article class="claim ([a-z-]+)" id="claim-(\w+)">', text) == [
        ("holds", "1a"), ("not-enough-data", "1b"), ("not-asked", "2a"),
    ]  # fmt: skip
    assert text.count("<svg") == 2
    assert "&lt;script&gt;" in text and "<script" not in text
    assert "&lt;b&gt;mine&lt;/b&gt; has no depth to set" in text
    # The mean of the first, 0.5425, right of the middle, which is at 100.
    assert float(re.search(r'<rect x="([0-9.]+)"', text)[1]) > 150
    assert not re.search(r"(src|href)=.?https?:", text)


def test_the_same_as_a_table_and_as_plain_values():
    verdicts = _verdicts()
    assert (
        "Of 2 hypotheses 1 are decided: 1 hold, 0 do not; for 1 there is not enough data, 1 were not asked."
        in verdicts.answer
    )
    header, rows = verdicts.table()
    assert [row[header.index("verdict")] for row in rows][:2] == ["holds", "not enough data"]
    assert rows[0][header.index("budget")] == "64 runs, 10,240 steps, 1,437 images"
    plain = verdicts.to_json()["claims"][0]
    assert (plain["n"], plain["verdict"], plain["p_holds"] < 0.05) == (4, "holds", True)
    assert verdicts.to_markdown().splitlines()[2].startswith("| 1a | Networks train faster (pages 0, 1, 4) |")
