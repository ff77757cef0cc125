"""A page in Chromium without a network, driven by Playwright with pointer, finger and keyboard."""

from __future__ import annotations

from contextlib import contextmanager

from playwright.sync_api import sync_playwright


@contextmanager
def opened(chromium, path, width=1280, *, dark=False):
    """The page of a file, and the list of its complaints: errors, warnings, and requests for anything else."""
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        )
        page = browser.new_page(
            viewport={"width": width, "height": 900},
            is_mobile=width < 500,
            color_scheme="dark" if dark else "light",
        )
        page.on(
            "console", lambda m: complaints.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(f"thrown: {error.message}"))
        page.on("request", lambda request: complaints.extend(_foreign(request)))
        page.goto(path.as_uri())
        yield page, complaints
        browser.close()


def _foreign(request):
    if not request.is_navigation_request() and not request.url.startswith(("data:", "blob:")):
        yield f"requested: {request.url}"


def drawn(chromium, text, folder, until="document.readyState === 'complete'"):
    """The document that Chromium makes of a page, when the JavaScript condition ``until`` is true, and its complaints."""
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    with opened(chromium, path) as (page, complaints):
        page.wait_for_function(until)
        return page.content(), complaints


def _middle(page, selector):
    element = page.locator(selector)
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, selector, by):
    """Press on an element, move the pointer ``by`` pixels to the right in three moves, and let go."""
    x, y = _middle(page, selector)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by, y, steps=3)
    page.mouse.up()


def swipe(page, selector, by):
    """The same with a finger, for which Playwright only has taps."""
    x, y = _middle(page, selector)
    session = page.context.new_cdp_session(page)
    for kind, part in (("touchStart", 0), ("touchMove", 1), ("touchMove", 2), ("touchMove", 3), ("touchEnd", None)):
        points = [] if part is None else [{"x": x + by * part / 3, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def press(page, key, times):
    """Press a key several times in the element that has the focus."""
    for _ in range(times):
        page.keyboard.press(key)
