"""A headless Chromium, driven over its own protocol (chromedevtools.github.io/devtools-protocol) by a web socket.

Only what the test of the page needs: open, look, click, type, press keys, choose files, take a picture, and what the
console said. `websockets` comes with streamlit.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Browser:
    """One page of a Chromium of its own. problems: what the console and the network complained about."""

    def __init__(self, width, height, downloads):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        assert program, f"this test needs one of {', '.join(NAMES)} (apt-get install chromium)"
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
             "--force-color-profile=srgb", f"--user-data-dir={self.profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = Path(self.profile.name) / "DevToolsActivePort"
        wait_for(lambda: port_file.exists() and port_file.read_text().strip(), "Chromium has not started")
        port = port_file.read_text().split()[0]
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        self.socket = connect(next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"],
                              max_size=None, proxy=None)
        self.count = 0
        self.problems = []
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=20)
        self.profile.cleanup()

    def send(self, method, **params):
        """The result of a command; events that come before it are read for problems."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.hear(message)

    def hear(self, message):
        method, params = message.get("method"), message.get("params")
        if method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["exception"].get("description", "an exception"))
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            said = [str(value.get("value", value.get("description"))) for value in params["args"]]
            self.problems.append(" ".join(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, address):
        self.send("Page.navigate", url=address)

    def text(self):
        return self.evaluate("document.body?.innerText ?? ''")

    def wait_for_text(self, text, seconds=60):
        wait_for(lambda: text in self.text(), lambda: f"{text!r} does not appear in:\n{self.text()}", seconds)

    def find(self, selector, text=""):
        """Wait for a visible element whose text, or whose label for a reader, has `text`, and that has stopped moving;
        scroll to it; its middle."""
        wanted = json.dumps([selector, text])
        script = f"""(() => {{ const [selector, text] = {wanted};
            const found = [...document.querySelectorAll(selector)].find(e => e.offsetParent &&
                ((e.innerText || "") + (e.getAttribute("aria-label") || "")).includes(text));
            if (!found) return null;
            found.scrollIntoView({{block: "center"}});
            const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        places = [None, self.evaluate(script)]

        def stands_still():
            places[:] = [places[1], self.evaluate(script)]
            return places[0] is not None and places[0] == places[1]

        wait_for(stands_still, lambda: f"no {selector} with {text!r} in:\n{self.text()}")
        return places[1]

    def click(self, selector, text=""):
        x, y = self.find(selector, text)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        """Into whatever has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key, control=False):
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}
        for kind in ("keyDown", "keyUp"):
            typed = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            typed = {"text": " "} if key == " " and kind == "keyDown" else typed
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key],
                      modifiers=2 if control else 0, **typed)

    def choose_file(self, path):
        wait_for(lambda: self.evaluate("!!document.querySelector('input[type=file]')"), "no place for a file")
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def picture(self, path, whole=False):
        """A PNG of what is seen, or of the whole page."""
        Path(path).write_bytes(base64.b64decode(
            self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]))


def wait_for(condition, complaint, seconds=60):
    """Ask ten times a second until the condition holds. complaint: a text, or a function that makes one"""
    end = time.monotonic() + seconds
    while True:
        time.sleep(0.1)
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(complaint() if callable(complaint) else complaint)
