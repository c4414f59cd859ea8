#!/usr/bin/env python3
"""Looks at pages of `smooseg report` in a real browser: headless Chromium, led by its driver (Debian: chromium,
chromium-driver). Ends with 77, and a message, where there is none, unless SMOOSEG_REQUIRE_BROWSER is set.

    tests/browser/report.py PROGRAM [FOLDER for screenshots]
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HOSTILE = '</script><img src=x onerror="document.title=\'broken\'">&amp;\'"'


class Browser:
    """As much of the WebDriver protocol (https://www.w3.org/TR/webdriver2/) as is needed."""

    def __init__(self, driver, browser, javascript=True):
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.base = "http://127.0.0.1:" + line.rsplit("port ", 1)[1].strip(" .\n")
                break
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options = {"binary": browser, "args": arguments}
        if not javascript:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        always = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = ""
        self.session = "/session/" + self.call("POST", "/session", {"capabilities": {"alwaysMatch": always}})["sessionId"]

    def call(self, method, path, body=None):
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + self.session + path, data, {"Content-Type": "application/json"},
                                         method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.read().decode()[:500]}") from error

    def open(self, path):
        self.call("POST", "/url", {"url": pathlib.Path(path).resolve().as_uri()})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def command(self, name, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def look(self, width, height, dark=False):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                     mobile=width < 600)
        self.command("Emulation.setEmulatedMedia",
                     features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.width = width
        time.sleep(0.3)

    def screenshot(self, path):
        """Of the whole page, in a window as high as it is: what is not in view need not be drawn."""
        height = self.command("Page.getLayoutMetrics")["cssContentSize"]["height"]
        self.command("Emulation.setDeviceMetricsOverride", width=self.width, height=int(min(height, 16000)),
                     deviceScaleFactor=1, mobile=self.width < 600)
        time.sleep(1)
        pathlib.Path(path).write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def keys(self, text):
        actions = [{"type": action, "value": key} for key in text for action in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def point(self, x, y):
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [
            {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}]}]})

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait()


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def prepare(program, folder):
    """Two runs that differ in the seed, on scenes whose names would break a careless page."""
    def smooseg(*words):
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
        check(done.returncode == 0, f"smooseg {' '.join(map(str, words))}: {done.stderr}")
        return done

    data = folder / "data"
    smooseg("prepare", "scenes", "--out", data, "--train", 6, "--test", 6, "--height", 96, "--width", 112)
    classes = json.loads((data / "classes.json").read_text())
    classes["classes"][0] = HOSTILE
    classes["colors"][1] = classes["colors"][0]
    (data / "classes.json").write_text(json.dumps(classes))
    for kind, ending in (("images", ".png"), ("labels", ".png")):
        first = sorted((data / kind / "test").iterdir())[0]
        first.rename(first.with_name('a"><b onload=x>&' + first.suffix))
    runs = []
    for seed in (0, 1):
        out = folder / f"seed {seed} <b>"
        smooseg("train", "--data", data, "--out", out, "--resolution", 64, "--textons", 8, "--batch", 4, "--embed-dim", 8,
                "--iterations", 40, "--log-every", 2, "--device", "cpu", "--seed", seed, "--profile")
        smooseg("evaluate", "--model", out / "best.safetensors", "--data", data, "--resolution", 96, "--panels", 0,
                "--kmeans", "--device", "cpu")
        runs.append(out)
    smooseg("report", *runs, "-o", folder / "both.html", "--pictures", 3, "--extremes", 1, "--device", "cpu")
    smooseg("report", runs[0], "-o", folder / "one.html", "--pictures", 3, "--extremes", 1, "--device", "cpu")
    return runs


SHARES = "return [...document.querySelectorAll(arguments[0])].map((e) => JSON.parse(e.dataset.value))"


def check_quiet(browser, page):
    """Nothing fetched, nothing complained about, nothing broken out."""
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] != "Network.requestWillBeSent":
            continue
        url = message["params"]["request"]["url"]
        check(url.startswith(("file:", "data:")), f"{page}: a request for {url[:200]}")
    # Chromium advises against the pixels being read as often as this test does.
    complaints = [entry["message"] for entry in browser.log("browser") if "willReadFrequently" not in entry["message"]]
    check(complaints == [], f"{page}: the console says {complaints}")
    check(browser.run("return document.title") != "broken", f"{page}: a name became markup")
    check(browser.run("return document.querySelectorAll('img[src=x], b[onload]').length") == 0, f"{page}: markup in names")


def check_numbers(browser, runs):
    scores = [json.loads((run / "evaluation" / "scores.json").read_text()) for run in runs]
    browser.open(runs[0].parent / "both.html")
    shown = browser.run(SHARES, "#summary tbody tr:not(.mean) td[data-value]")
    expected = [value for s in scores for value in (s["accuracy"], s["miou"], s["kmeans"]["accuracy"], s["kmeans"]["miou"])]
    check(shown == expected, f"summary: {shown} instead of {expected}")
    mean = browser.run(SHARES, "#summary tr.mean td[data-value]")
    check(abs(mean[0] - (scores[0]["accuracy"] + scores[1]["accuracy"]) / 2) < 1e-12, f"mean over seeds: {mean}")
    ious = browser.run("return [...document.querySelectorAll('#iou tbody tr')].map((row) => "
                       "[Number(row.dataset.class), row.querySelector('th').textContent, "
                       "JSON.parse(row.querySelectorAll('td')[0].dataset.value), "
                       "JSON.parse(row.querySelectorAll('td')[1].dataset.value)])")
    check(len(ious) == len(scores[0]["class_names"]), "a row for each class")
    for number, name, *values in ious:
        check(name == scores[0]["class_names"][number], f"class {number} is called {name}")
        check(values == [s["iou"][name] for s in scores], f"IoU of {name}")
    check([v[2] for v in ious] == sorted((v[2] for v in ious), key=lambda v: -1 if v is None else v, reverse=True),
          "sorted by IoU")
    for number, s in enumerate(scores):
        counts = browser.run("return [...document.querySelectorAll('table.heat')[arguments[0]].querySelectorAll('tbody tr')]"
                             ".map((row) => [Number(row.dataset.cluster), [...row.querySelectorAll('td')]"
                             ".map((cell) => Number(cell.dataset.count))])", number)
        check({cluster: row for cluster, row in counts} == dict(enumerate(s["confusion"])), "confusion matrix")
    # Shares of a cluster's pixels add up to 100 %.
    browser.run("const s = document.getElementById('normalize'); s.value = 'row'; s.dispatchEvent(new Event('change'))")
    for row in browser.run("return [...document.querySelector('table.heat').querySelectorAll('tbody tr')].map((row) => "
                           "[...row.querySelectorAll('td')].reduce((sum, cell) => sum + Number(cell.textContent), 0))"):
        check(row == 0 or abs(row - 100) < 1, f"a row of shares adds up to {row}")
    browser.open(runs[0].parent / "one.html")
    check(browser.run(SHARES, "#accuracy, #miou") == [scores[0]["accuracy"], scores[0]["miou"]], "key figures")


PIXEL = """const [selector, x, y] = arguments;
const canvas = document.querySelector(selector).parentElement.querySelector('canvas');
return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"""


def check_gallery(browser, runs):
    browser.open(runs[0].parent / "one.html")
    browser.look(1400, 900)
    wait = "return document.querySelectorAll('.picture:first-of-type .view canvas').length"
    browser.run("document.querySelector('.picture').focus()")
    for _ in range(50):
        if browser.run(wait) >= 3:
            break
        time.sleep(0.1)
    check(browser.run(wait) >= 3, "the maps are drawn")
    first = ".picture img.map[data-map=run0]"
    before = browser.run(PIXEL, first, 40, 40)
    check(before[3] == 255, f"a pixel of the prediction: {before}")

    # The slider, by script and by keys.
    opacity = "return Number(getComputedStyle(document.querySelector('.view.over canvas')).opacity)"
    browser.run("const s = document.getElementById('opacity'); s.value = 25; s.dispatchEvent(new Event('input'))")
    check(browser.run(opacity) == 0.25, "the slider moves the overlay")
    browser.run("document.querySelector('.picture').focus()")
    browser.keys("+")
    check(abs(browser.run(opacity) - 0.35) < 1e-6, "+ moves the overlay")
    browser.keys("\ue014")  # arrow to the right
    check(browser.run("return [...document.querySelectorAll('.picture')].indexOf(document.activeElement)") == 1,
          "an arrow goes to the next picture")
    browser.run("document.querySelector('.picture').focus()")

    # Borders are fewer pixels than regions.
    count = ("const c = document.querySelector('.view.over canvas'); return c.getContext('2d')"
             ".getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 0).length")
    filled = browser.run(count)
    browser.keys("b")
    check(0 < browser.run(count) < filled / 2, "only borders")
    browser.keys("b")
    check(browser.run(count) == filled, "regions again")

    # Another palette.
    browser.keys("c")
    check(browser.run(PIXEL, first, 40, 40) != before, "the palette for colour-blind eyes differs")
    browser.keys("c")
    check(browser.run(PIXEL, first, 40, 40) == before, "the classes' own colours again")

    # Hovering names the class under the pointer, with its share.
    box = browser.run("const v = document.querySelector(arguments[0]).parentElement; v.scrollIntoView({block: 'center'});"
                      "const b = v.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]", first)
    browser.point(box[0] + box[2] * 40.5 / 96, box[1] + box[3] * 40.5 / 96)
    tip = browser.run("const t = document.getElementById('tip'); return t.hidden ? '' : t.textContent")
    names = browser.run("return JSON.parse(document.getElementById('data').textContent).names")
    colors = browser.run("return JSON.parse(document.getElementById('data').textContent).colors")
    check(len({tuple(c) for c in colors}) == len(colors), "no two classes share a colour")
    name = names[colors.index(before[:3])]
    check(tip.startswith(name + " · ") and tip.endswith(" %"), f"hovering over {name} says {tip!r}")

    # The filter: all pictures without the class go, what is left of the others is that class.
    total = browser.run("return document.querySelectorAll('.picture').length")
    wanted = colors.index(before[:3])
    browser.run("document.querySelector(`button.class[data-class='${arguments[0]}']`).click()", wanted)
    check(browser.run("return document.querySelector(`button.class[data-class='${arguments[0]}']`).ariaPressed", wanted)
          == "true", "the button is pressed")
    left = browser.run("return [...document.querySelectorAll('.picture:not([hidden])')].every((a) => "
                       "[...a.querySelectorAll('img.map')].length > 0)")
    check(left and browser.run(PIXEL, first, 40, 40) == before, "the chosen class stays")
    dim = browser.run("const c = document.querySelector(arguments[0]).parentElement.querySelector('canvas');"
                      "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
                      "for (let p = 3; p < d.length; p += 4) n += d[p] > 0 && d[p] < 255; return n", first)
    check(dim > 0, "other classes are dimmed")
    browser.run("document.getElementById('reset').click()")
    check(browser.run("return document.querySelectorAll('.picture:not([hidden])').length") == total, "all again")

    # A group.
    browser.run("const s = document.getElementById('group'); s.value = 'worst'; s.dispatchEvent(new Event('change'))")
    check(browser.run("return [...document.querySelectorAll('.picture:not([hidden])')]"
                      ".every((a) => a.closest('.group').dataset.group === 'worst')"), "the worst alone")


def check_charts(browser, runs):
    browser.open(runs[0].parent / "one.html")
    log = [json.loads(line) for line in (runs[0] / "log.jsonl").read_text().splitlines()]
    curves = browser.run("return Object.values(Chart.instances).flatMap((c) => c.data.datasets.map((d) => [d.label, d.data]))")
    total = next(points for label, points in curves if label == "total")
    check([(p["x"], p["y"]) for p in total] == [(line["step"], line["total"]) for line in log], "the curve of the loss")
    blank = browser.run("return [...document.querySelectorAll('.chart canvas')].filter((c) => { const d = c.getContext('2d')"
                        ".getImageData(0, 0, c.width, c.height).data; return !d.some((v) => v > 0) }).length")
    check(blank == 0, f"{blank} charts are blank")


def check_width(browser, page):
    for width in (1400, 400):
        browser.look(width, 900)
        wide = browser.run("return document.documentElement.scrollWidth")
        check(wide <= width, f"{page}: {wide} pixels wide on a screen of {width}")


def main():
    program = sys.argv[1]
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        print("no Chromium with its driver here (Debian: chromium, chromium-driver): pages were not looked at")
        return 1 if os.environ.get("SMOOSEG_REQUIRE_BROWSER") else 77
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        runs = prepare(program, folder)
        browser = Browser(driver, chromium)
        try:
            check_numbers(browser, runs)
            check_gallery(browser, runs)
            check_charts(browser, runs)
            for page in ("one.html", "both.html"):
                browser.open(folder / page)
                check_width(browser, page)
                for width, dark in [(w, d) for w in (1400, 400) for d in (False, True)]:
                    if len(sys.argv) > 2:
                        browser.look(width, 900, dark)
                        name = f"{page[:-5]}-{width}{'-dark' if dark else ''}.png"
                        browser.screenshot(pathlib.Path(sys.argv[2]) / name)
                check_quiet(browser, page)
        finally:
            browser.close()
        # Without scripts the pictures and tables are there all the same.
        browser = Browser(driver, chromium, javascript=False)
        try:
            browser.open(folder / "one.html")
            browser.look(1400, 900)
            shot = folder / "plain.png"
            browser.screenshot(shot)
            images = browser.command("DOMSnapshot.captureSnapshot", computedStyles=[])
            text = json.dumps(images["strings"])
            check("The curves need JavaScript." in text and "IoU of each class" in text, "a page without scripts")
            if len(sys.argv) > 2:
                shutil.copy(shot, pathlib.Path(sys.argv[2]) / "one-without-script.png")
        finally:
            browser.close()
    print("the pages of smooseg report are as they should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
