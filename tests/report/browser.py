"""A page as a browser shows it, without a network."""

from __future__ import annotations

from tests.children import run


def browse(chromium, text, folder):
    """What a browser without a network makes of a page, and what it complains about."""
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    shown = run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
         "--dump-dom", path.as_uri()],
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    complaints = [
        line for line in shown.stderr.splitlines() if (":CONSOLE" in line and "INFO" not in line) or "ERR_" in line
    ]
    return shown.stdout, complaints
