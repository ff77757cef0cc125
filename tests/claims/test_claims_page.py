"""The page of the verdicts, as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bnkit.claims import CLAIMS, PAGES, Decision, Verdict, designs, judge
from bnkit.claims.claims_page import claims_page
from bnkit.claims.forest_plot import forest_plot
from bnkit.claims.judge_hypotheses import HypothesisTest
from bnkit.claims.verdict_table import ClaimResult, Verdicts
from tests.browser import drawn


def _verdicts(**facts):
    design = designs(quick=True)
    effects = [{0: 0.5, 1: 0.6, 2: 0.55, 3: 0.52}, {0: -0.4, 1: 0.5}]
    verdict = judge([HypothesisTest(values, 0.1) for values in effects])
    asked = [ClaimResult(c, design[c.design], j, e) for c, j, e in zip(CLAIMS, verdict, effects, strict=False)]
    asked.append(ClaimResult(CLAIMS[2], None, Verdict(Decision.NOT_ASKED, None), {}, "<b>mine</b> has no depth to set"))
    return Verdicts(Path("results/claims"), asked, 4, "bnkit claims", {"torch": "2", **facts})


def test_every_verdict_has_its_row_and_its_picture_in_the_right_place():
    text = claims_page(_verdicts(machine="<script>").to_json())
    assert re.findall(r'<article class="claim ([a-z-]+)" id="claim-(\w+)">', text) == [
        ("holds", "1a"), ("not-enough-data", "1b"), ("not-asked", "2a"),
    ]  # fmt: skip
    # Two rows, each with its picture and in the picture of all (an inner one, too), and that one's axis.
    assert text.count("<svg") == 2 * 3 + 1
    assert "&lt;script&gt;" in text and text.count("<script>") == 1
    assert "&lt;b&gt;mine&lt;/b&gt; has no depth to set" in text
    # The mean of the first, 0.5425, right of the middle, which is at 100.
    assert float(re.search(r'<rect x="([0-9.]+)" y="9"', text)[1]) > 150
    assert not re.search(r"(src|href)=.?https?:", text)
    # The numbers of the pages are explained.
    assert 'Said on <a href="#pages">pages 0, 1, 4</a>' in text and 'id="pages"' in text
    assert all(f"{number}, {page.replace(chr(39), '&#39;')}" in text for number, page in enumerate(PAGES))


def test_the_same_as_a_table_and_as_plain_values():
    verdicts = _verdicts()
    assert (
        "Of 2 hypotheses 1 is decided: 1 holds, 0 do not; for 1 there is not enough data, 1 was not asked. "
        "The chance that any of these verdicts is wrong is at most 5 %" in verdicts.answer
    )
    header, rows = verdicts.table()
    assert [row[header.index("verdict")] for row in rows][:2] == ["holds", "not enough data"]
    assert rows[0][header.index("budget")] == "64 runs, 10,240 steps, 1,437 images"
    plain = verdicts.to_json()["claims"][0]
    assert (plain["n"], plain["verdict"], plain["p_holds"] < 0.05) == (4, "holds", True)
    assert verdicts.to_markdown().splitlines()[2].startswith("| 1a | Networks train faster (pages 0, 1, 4) |")


def _claim(number, mean, low, high, **changes):
    claim = {
        "number": number,
        "hypothesis": "h",
        "verdict": "holds",
        "text": "t",
        "n": 5,
        "mean": mean,
        "low": low,
        "high": high,
    }
    return {**claim, "matters": 0.01, **changes}


def test_all_effects_in_units_of_what_matters():
    claims = [
        _claim("1", 0.01, -0.01, 0.03),
        _claim("2", None, None, None),
        _claim("3", 2.0, None, None, matters=2.0),  # as much, of something else; without an interval
        _claim("4", -0.01, -0.02, 0.01, nothing=-0.01, matters=-0.01),
        _claim("5", 1.0, 0.5, 1.5),
    ]
    drawn = forest_plot(claims)
    rows = {row["number"]: row for row in drawn["rows"]}
    middle, ticks = drawn["width"] / 2, {label: x for x, label in drawn["ticks"]}
    assert list(rows) == ["1", "3", "4", "5"]
    assert ticks["0"] == middle and list(ticks) == ["−100", "−10", "−1", "0", "+1", "+10", "+100"]
    assert rows["1"]["mean"] == rows["3"]["mean"] == rows["3"]["low"] == ticks["+1"]
    assert rows["1"]["low"] == ticks["−1"] == rows["4"]["low"]
    assert rows["4"]["mean"] == middle
    assert 0 < drawn["width"] - rows["5"]["high"] < 0.03 * drawn["width"]  # the furthest
    assert forest_plot([])["rows"] == []


_DESIGN = {
    "name": "learning-rates", "about": "<i>Rates</i>", "networks": "mlp", "epochs": 8, "claims": ["1a", "1b"], "runs": "64 finished",
    "minutes": 1.25, "tables": {"Crossed": (("lr", "batch_norm"), [("0.1", "0.9")])}, "report": "learning-rates/report.html",
}  # fmt: skip


def test_the_page_says_the_load_and_what_an_open_claim_would_take():
    content = _verdicts().to_json()
    content["claims"][1]["why"] = "it would take about 9 more seeds, 12 min of training"
    text = claims_page(content, [{**_DESIGN, "load": "Runs were trained alone, at a load average of 0.4 to 1.2"}])
    assert "at a load average of 0.4 to 1.2." in text
    assert "learning-rates</a>. It would take about 9 more seeds, 12 min of training.</p>" in " ".join(text.split())


def test_what_was_trained_stands_with_links_to_and_fro():
    text = claims_page(_verdicts().to_json(), [_DESIGN])
    assert '<a href="learning-rates/report.html">Its report</a>' in text and "&lt;i&gt;Rates" in text
    links, places = re.findall(r'href="#([^"]+)"', text), re.findall(r' id="([^"]+)"', text)
    assert {"design-learning-rates", "claim-1a", "claim-1b"} <= set(links) <= set(places)
    assert "1.2 minutes of training" in text


_PROBE = """<pre id="probe"></pre><script>
const colour = () => getComputedStyle(document.body).backgroundColor, before = colour();
document.querySelector("#theme").click();
const rows = [...document.querySelectorAll(".forest a")];
rows[0].focus();
document.querySelector("#probe").textContent = [
  before !== colour(), rows.length, rows.every((row) => row.querySelector("svg").getBoundingClientRect().height > 10), document.activeElement === rows[0],
  document.documentElement.scrollWidth <= innerWidth,
].join(" ");
</script></body>"""


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_it(tmp_path, chromium):
    text = claims_page(_verdicts().to_json(), [_DESIGN])
    shown, complaints = drawn(chromium, text.replace("</body>", _PROBE), tmp_path)
    assert complaints == []
    assert re.search(r'<pre id="probe">(.*?)</pre>', shown)[1] == "true 2 true true true"
    assert len(text.encode()) < 100_000
