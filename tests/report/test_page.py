"""The page as text, and as a browser shows it without a network."""

from __future__ import annotations

import re
import subprocess

import pytest

from bnkit.report.page import page
from tests.report.made import finished, plan_of, records_of


def _page(**changes):
    planned = plan_of(**changes)
    return page(planned, records_of(planned, lambda run: finished(0.5, 0.6 + run.seed / 100)))


def test_what_came_from_outside_is_escaped():
    text = _page(about="<script>alert(1)</script>")
    assert "<script>alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &lt;b&gt;" in text


def test_a_network_name_cannot_end_the_script_that_holds_the_figures():
    text = page(
        planned := plan_of(("</script><b>x", "batch_norm")), records_of(planned, lambda run: finished(0.5, 0.6))
    )
    assert "</script><b>x" not in text


def test_the_page_holds_the_answer_the_tables_and_the_experiment():
    text = _page(show=["epochs", "first_layer"])
    for expected in ("batch_norm against no_batch_norm", "All runs, best first", "best in training first",
                     "gamma and beta of the first batch norm", "name = &#34;made&#34;"):  # fmt: skip
        assert expected in text


def test_the_page_names_no_address_to_load_from():
    """Nothing is loaded: no source, style sheet or font from elsewhere; and it stays under 3 MB."""
    text = _page()
    assert not re.search(r"<(script|img|link|iframe)\b[^>]+\b(src|href)\s*=(?!['\"]?data:)", text)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert len(text.encode()) < 3_000_000


def test_a_long_table_says_what_it_leaves_out():
    planned = plan_of(seeds=300)
    text = page(planned, records_of(planned, lambda run: finished(0.5)))
    assert "100 more rows in results.csv." in text


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_the_figures_without_a_network(tmp_path, chromium):
    path = tmp_path / "report.html"
    path.write_text(_page(grid={"lr": [0.1, 1.0]}), encoding="utf-8")
    shown = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert shown.stdout.count('class="bk-Figure"') == 5
    complaints = [
        line for line in shown.stderr.splitlines() if (":CONSOLE" in line and "INFO" not in line) or "ERR_" in line
    ]
    assert complaints == []
