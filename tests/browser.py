"""A headless Chromium, driven over its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
LIMIT_S = 30


class Page:
    """One page of the browser. Places are pixels of the window, (x, y)."""

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=LIMIT_S, suppress_origin=True)
        self.numbers = itertools.count(1)
        self.events: list[dict] = []

    def send(self, method: str, **parameters: object) -> dict:
        """Call a method of the protocol; events that come meanwhile are kept."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") != number:
                self.events.append(message)
                continue
            assert "error" not in message, f"{method}: {message['error']}"
            return message["result"]

    def run(self, code: str) -> object:
        """The value of an expression of JavaScript; what it throws is a failure."""
        answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{code}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, code: str) -> object:
        """The value of an expression once it is true."""
        end = time.monotonic() + LIMIT_S
        while not (value := self.run(code)):
            assert not (found := self.complaints()), found
            assert time.monotonic() < end, f"not within {LIMIT_S} s: {code}"
            time.sleep(0.02)
        return value

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Open a file, and wait until the page says that it is ready."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=path.as_uri())
        self.wait_for("document.body !== null && document.body.dataset.ready === 'yes'")

    def move(self, place: tuple[float, float], kind: str = "mouseMoved", **more: object) -> None:
        """Move the mouse, or press or release its left button."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **button, **more)

    def drag(self, places: list[tuple[float, float]]) -> None:
        """Press the button at the first place, go through all, and release it at the last."""
        self.move(places[0])
        self.move(places[0], "mousePressed")
        for place in places[1:]:
            self.send("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1], button="left", buttons=1)
        self.move(places[-1], "mouseReleased")

    def click(self, selector: str) -> None:
        """Click on the middle of the first element that a selector finds."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.move(place, kind)

    def fill(self, selector: str, value: str | int | float) -> None:
        """Give an input or a choice a value, as if the user did."""
        events = "['input', 'change'].forEach(kind => element.dispatchEvent(new Event(kind)))"
        found = f"(element => {{ element.value = {json.dumps(value)}; {events}; }})"
        self.run(f"{found}(document.querySelector({json.dumps(selector)}))")

    def requests(self) -> list[str]:
        """The addresses that were asked for so far."""
        self.run("0")
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Errors and warnings so far, of scripts and of the browser."""
        self.run("0")
        thrown, logged, printed = (
            [event["params"] for event in self.events if event["method"] == method]
            for method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        )
        return [
            *(str(event["exceptionDetails"]["exception"].get("description")) for event in thrown),
            *(event["entry"]["text"] for event in logged),
            *(str(event["args"]) for event in printed if event["type"] in ("error", "warning")),
        ]

    def save_picture(self, path: Path, full: bool = False) -> None:
        """Save what the page looks like; with `full` all of it, not only the window."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page of a new browser, whose profile and downloads are in a folder: `profile` and `downloads`."""
    profile, downloads = folder / "profile", folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = Page(_address(profile, process))
        page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        yield page
        page.send("Browser.close")
        page.socket.close()
        process.wait(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()


def _address(profile: Path, process: subprocess.Popen) -> str:
    """Where the page of a browser that has just been started listens."""
    port_file = profile / "DevToolsActivePort"
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        assert process.poll() is None, f"{CHROMIUM} exited with {process.returncode}"
        if port_file.exists() and len(lines := port_file.read_text().split()) == 2:
            port, path = lines
            target = _page_target(f"ws://127.0.0.1:{port}{path}")
            return f"ws://127.0.0.1:{port}/devtools/page/{target}"
        time.sleep(0.02)
    raise AssertionError(f"{CHROMIUM} did not start within {LIMIT_S} s")


def _page_target(address: str) -> str:
    """The name of the browser's page."""
    whole = Page(address)
    try:
        while True:
            for target in whole.send("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return target["targetId"]
            time.sleep(0.02)
    finally:
        whole.socket.close()
