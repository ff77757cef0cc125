"""What the other tests of pages rest on: that the browser's complaints are heard."""

from __future__ import annotations

import pytest

from tests.browser import drawn


@pytest.mark.slow
@pytest.mark.browser
def test_errors_warnings_and_requests_of_a_page_are_heard(tmp_path, chromium):
    script = """
console.error("an error"); console.warn("a warning"); console.log("a remark");
setTimeout(() => { document.documentElement.dataset.thrown = "yes"; throw new Error("thrown late"); }, 50);
Promise.reject(new Error("not handled"));
fetch("https://example.org/fetched").catch(() => {});
document.body.append(Object.assign(new Image(), { src: "http://example.org/picture.png" }));
document.body.append(Object.assign(new Image(), { src: "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" }));
"""
    page = f"<!doctype html><html><head></head><body><script>{script}</script></body></html>"
    _, complaints = drawn(chromium, page, tmp_path, "document.documentElement.dataset.thrown")
    for expected in ("error: an error", "warning: a warning", "thrown: thrown late", "thrown: not handled",
                     "requested: https://example.org/fetched", "requested: http://example.org/picture.png"):  # fmt: skip
        assert expected in complaints
    assert not [complaint for complaint in complaints if "remark" in complaint or "data:" in complaint]


@pytest.mark.slow
@pytest.mark.browser
def test_a_quiet_page_is_no_complaint(tmp_path, chromium):
    shown, complaints = drawn(chromium, "<!doctype html><html><head></head><body><p>Quiet</p></body></html>", tmp_path)
    assert complaints == []
    assert "<p>Quiet</p>" in shown
