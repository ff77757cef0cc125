"""A page as a browser shows it, without a network."""

from __future__ import annotations

import html
import json
import re

from tests.child_processes import run

# Goes before everything else in the page. The browser's own log is no help: it writes an error down as it does a remark.
_LISTENER = """<script>(() => {
  const seen = [], note = (text) => {
    seen.push(String(text));
    document.documentElement.dataset.complaints = JSON.stringify(seen);
  };
  for (const level of ["error", "warn"]) console[level] = (...what) => note(`${level}: ${what.join(" ")}`);
  addEventListener("error", (e) => note(e.message || `not loaded: ${e.target.src || e.target.href}`), true);
  addEventListener("unhandledrejection", (e) => note(`rejected: ${e.reason}`));
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!/^(data|blob):/.test(entry.name)) note(`requested: ${entry.name}`);
  }).observe({ type: "resource", buffered: true });
})();</script>"""


def browse(chromium, text, folder):
    """What a browser without a network makes of a page, and what it complains about: errors, warnings, requests."""
    path = folder / "report.html"
    path.write_text(text.replace("<head>", f"<head>{_LISTENER}", 1), encoding="utf-8")
    shown = run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    found = re.search(r'data-complaints="([^"]*)"', shown.stdout)
    return shown.stdout, json.loads(html.unescape(found[1])) if found else []
