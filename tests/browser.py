"""Chromium (benchmarks/chromium.py) with what the test of the page needs: look, click, choose files, download."""

import json
import time

from benchmarks.chromium import Chromium


class Browser(Chromium):
    """A window of a width and a height. downloads: the folder that they go to"""

    def __init__(self, width, height, downloads):
        super().__init__()
        self.call("DOM.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 500)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

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
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose_file(self, path):
        wait_for(lambda: self.evaluate("!!document.querySelector('input[type=file]')"), "no place for a file")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


def wait_for(condition, complaint, seconds=60):
    """Ask ten times a second until the condition holds. complaint: a text, or a function that makes one"""
    end = time.monotonic() + seconds
    while True:
        time.sleep(0.1)
        if value := condition():
            return value
        if time.monotonic() > end:
            raise AssertionError(complaint() if callable(complaint) else complaint)
