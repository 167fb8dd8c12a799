"""Chromium without a window, driven through its DevTools pipe: real time, real keys, no further package.

    with serving(folder) as url, Chromium() as browser:
        browser.open(url)
        browser.evaluate("document.title")             # the value of an expression; promises are awaited
        browser.type("so good")

Protocol: JSON messages, each ended by a zero byte, on the file descriptors 3 and 4
(https://chromedevtools.github.io/devtools-protocol).
"""

import base64
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pocketbert.errors import UserError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # nothing but this machine can be reached
# Puts the pipes where Chromium looks for them, and becomes Chromium.
START = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
         "os.execvp(sys.argv[3], sys.argv[3:])")
PATIENCE = 60  # seconds


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(folder):
    """The URL under which a folder is served on this machine, as `python -m http.server` serves it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Chromium:
    """A browser with one page. `events`: what it has reported, newest last."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            raise UserError(f"no browser: none of {', '.join(NAMES)} is installed (apt install chromium)")
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [program, *FLAGS, f"--user-data-dir={self.profile.name}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium's sandbox refuses root
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self.process = subprocess.Popen([sys.executable, "-c", START, str(theirs_in), str(theirs_out), *command],
                                        pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.out = os.fdopen(ours_out, "wb", buffering=0)
        self.messages = os.fdopen(ours_in, "rb")
        self.events = []
        self.count = 0
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        self.out.close()
        self.messages.close()
        self.profile.cleanup()

    def receive(self):
        """The next message."""
        data = b""
        while not data.endswith(b"\0"):
            byte = self.messages.read1(1 << 16) if not data else self.messages.read(1)
            if not byte:
                raise RuntimeError("Chromium has ended")
            data += byte
        return data[:-1]

    def call(self, method, **params):
        """Call a method of the protocol and wait for its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            for answer in map(json.loads, self.receive().split(b"\0")):
                if "id" not in answer:
                    self.events.append(answer)
                elif "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                else:
                    return answer["result"]

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page; a promise is awaited, an error is raised."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description"))
        return result["result"].get("value")

    def wait_for(self, expression):
        """Wait until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} stays false: {self.evaluate('document.body.innerText')!r}")
            time.sleep(0.02)

    def open(self, url, ready="document.documentElement.dataset.ready"):
        """Go to a URL and wait until the page is ready."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.body && {ready}")

    def type(self, text):
        """Enter a text where the focus is, as a keyboard does."""
        self.call("Input.insertText", text=text)

    def press(self, key, control=False):
        """Press and release a key: Tab, Enter, Escape or a blank, perhaps with Control."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}[key]
        typed = {"Enter": "\r", " ": " "}.get(key)
        for kind in ("keyDown", "keyUp"):
            text = {"text": typed} if typed and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      modifiers=2 if control else 0, **text)

    def requests(self):
        """The URLs that the page has asked for."""
        return [event["params"]["request"]["url"] for event in self.events
                if event["method"] == "Network.requestWillBeSent"]

    def complaints(self, levels=("error", "warning")):
        """What the page has written to the console at these levels, and its uncaught errors."""
        found = [f"{event['params']['entry']['text']} {event['params']['entry'].get('url', '')}"
                 for event in self.events if event["method"] == "Log.entryAdded"
                 and event["params"]["entry"]["level"] in levels]
        found += [str(event["params"]["args"]) for event in self.events
                  if event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in levels]
        return found + [str(event["params"]) for event in self.events if event["method"] == "Runtime.exceptionThrown"]

    def screenshot(self, path, width, height, dark=False):
        """Write a PNG of the page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        time.sleep(0.3)  # the bars move for a moment
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))
