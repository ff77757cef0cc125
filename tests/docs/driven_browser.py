"""A page in a Chromium that a test drives with pointer and keyboard, over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

from tests.child_processes import Child

_SECONDS = 60
_KEYS = {
    "ArrowRight": 39,
    "ArrowLeft": 37,
    "PageUp": 33,
    "PageDown": 34,
    "Home": 36,
    "End": 35,
    "Tab": 9,
    "Enter": 13,
    " ": 32,
}


class Page:
    """An open page: real pointer and key events go in, values come out."""

    def __init__(self, runner: asyncio.Runner, socket: Any) -> None:
        self._runner, self._socket, self._number = runner, socket, 0
        self.complaints: list[str] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol; what the page complains about meanwhile is noted."""
        self._number += 1
        return self._runner.run(asyncio.wait_for(self._send(self._number, method, parameters), _SECONDS))

    async def _send(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.read_message())
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"]["text"])
            elif message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] in (
                "error",
                "warning",
            ):
                self.complaints.append(str(message["params"]["args"]))
            elif message.get("method") == "Network.requestWillBeSent":
                self.complaints.append(f"requested {message['params']['request']['url']}")
            elif message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.evaluate(f"new Promise((done) => setInterval(() => {{ if ({condition}) done(); }}, 20))")

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Load a file at a size, in a colour scheme."""
        for domain in ("Page", "Runtime"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri())
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
        )
        self.send("Network.enable")

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is in the window, after it was scrolled into view."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return x, y

    def drag(self, selector: str, by: float) -> None:
        """Press on an element, move the pointer ``by`` pixels to the right in three moves, and let go."""
        x, y = self.middle(selector)
        self._mouse("mousePressed", x, y)
        for part in (1, 2, 3):
            self._mouse("mouseMoved", x + by * part / 3, y)
        self._mouse("mouseReleased", x + by, y)

    def swipe(self, selector: str, by: float) -> None:
        """The same with a finger."""
        x, y = self.middle(selector)
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        for part in (1, 2, 3):
            self.send("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x + by * part / 3, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.send("Emulation.setTouchEmulationEnabled", enabled=False)

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        self._mouse("mousePressed", x, y)
        self._mouse("mouseReleased", x, y)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key in the element that has the focus."""
        text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                given = text if kind == "keyDown" else {}
                self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=_KEYS[key], **given)

    def screenshot(self, path: Path) -> None:
        """The whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def driven(chromium: str, folder: Path) -> Iterator[Page]:
    """A page of a Chromium that has no network and a profile in ``folder``."""
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}", "about:blank",
    ]  # fmt: skip
    with Child(command) as child, asyncio.Runner() as runner:
        child.until("DevTools listening on")
        address = re.search(r"ws://(\S+?)/", child.err)[1]

        async def connect() -> Any:
            browser = await websocket_connect(f"ws://{address}{re.search(r'ws://[^/]+(/[^ ]+)', child.err)[1].strip()}")
            await browser.write_message(json.dumps({"id": 1, "method": "Target.getTargets"}))
            while "id" not in (message := json.loads(await browser.read_message())):
                pass
            target = next(found for found in message["result"]["targetInfos"] if found["type"] == "page")
            browser.close()
            return await websocket_connect(f"ws://{address}/devtools/page/{target['targetId']}")

        socket = runner.run(asyncio.wait_for(connect(), _SECONDS))
        try:
            yield Page(runner, socket)
        finally:
            runner.run(asyncio.wait_for(_close(socket), _SECONDS))


async def _close(socket: Any) -> None:
    socket.close()
    while await socket.read_message() is not None:
        pass
