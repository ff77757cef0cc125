"""What the other tests of pages rest on: that the browser's complaints are heard."""

from __future__ import annotations

import pytest

from tests.report.browser import browse


@pytest.mark.slow
@pytest.mark.browser
def test_errors_warnings_and_requests_of_a_page_are_heard(tmp_path, chromium):
    script = """
console.error("an error"); console.warn("a warning"); console.log("a remark");
setTimeout(() => { throw new Error("thrown late"); }, 50);
Promise.reject(new Error("not handled"));
fetch("https://example.org/fetched").catch(() => {});
document.body.append(Object.assign(new Image(), { src: "http://example.org/picture.png" }));
document.body.append(Object.assign(new Image(), { src: "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" }));
"""
    page = f"<!doctype html><html><head></head><body><script>{script}</script></body></html>"
    _, complaints = browse(chromium, page, tmp_path)
    for expected in ("error: an error", "warn: a warning", "thrown late", "rejected: Error: not handled",
                     "requested: https://example.org/fetched", "requested: http://example.org/picture.png"):  # fmt: skip
        assert [c for c in complaints if expected in c], (expected, complaints)
    assert not [c for c in complaints if "remark" in c or "data:" in c]


@pytest.mark.slow
@pytest.mark.browser
def test_a_quiet_page_is_no_complaint(tmp_path, chromium):
    drawn, complaints = browse(chromium, "<!doctype html><html><head></head><body><p>Quiet</p></body></html>", tmp_path)
    assert complaints == []
    assert "<p>Quiet</p>" in drawn
