"""browser_test.py OUT --chromium PATH: drives a real JupyterLab in Chromium through the life of a training run, and looks at
what is on screen each time: run all, interrupt, run again, pause, reload, restart, run all, both themes, a narrow page, the saved
file, a copy that is not trusted; what the kernel's own magics show; then the same outputs in nbconvert and `jupyter console`. Pictures are kept in OUT. The engine is
the one at $GOTUNE_SOCKET. Says each check, and in the last line how many passed and failed."""
import argparse
import collections
import json
import re
import shutil
import socket
import sys
import time
import traceback
from pathlib import Path

import browser_kernel
import browser_notebook
import browser_text
from browser_lab import JS, WINDOW, open_lab, own_settings
from browser_look import Look, measures_right, pixels
from browser_notebook import RUN, STEPS

OUTPUTS = ".jp-Notebook .jp-OutputArea-output"

# Watches a cell's output twenty times a second into window.samples, from now on.
WATCH = JS + r"""
clearInterval(window.watch); window.samples = [];
const area = nb.widgets[arg].outputArea.node;
window.watch = setInterval(() => {
  if (window.quiet) return;
  const text = area.innerText, step = text.match(/step (\d+) of/), chart = area.querySelector('svg[role=img]');
  const live = !!area.querySelector('small') && /Page reloaded/.test(text);
  window.samples.push({time: performance.now() / 1000, live, step: step ? +step[1] : 0, height: area.getBoundingClientRect().height,
    chart: !!chart, top: chart ? chart.getBoundingClientRect().top - area.getBoundingClientRect().top : 0, left: / left/.test(text), stopping: /stopping at/.test(text),
    points: Math.max(0, ...[...area.querySelectorAll('polyline')].map(e => e.getAttribute('points').trim().split(/\s+/).length)), bar: area.querySelectorAll('progress').length,
    rows: [...area.querySelectorAll('tbody tr td:first-child')].filter(e => /\d/.test(e.innerText)).length, wide: area.scrollWidth - area.clientWidth});
}, 50);"""

# What a cell shows: its texts and the kinds of its outputs, and how many steps its charts have.
SHOWN = JS + r"""
const w = nb.widgets[arg], area = w.outputArea.node;
const points = root => [...root.querySelectorAll('polyline')].map(e => e.getAttribute('points').trim().split(/\s+/).length);
const cards = [...area.querySelectorAll('img')].map(e => new DOMParser().parseFromString(new TextDecoder().decode(Uint8Array.from(atob(e.src.split('base64,')[1]), c => c.charCodeAt(0))), 'image/svg+xml'));
return {text: area.innerText, kinds: w.model.outputs.toJSON().map(o => o.output_type), count: w.model.executionCount, html: w.model.outputs.toJSON().map(o => o.data?.['text/html'] ?? ''),
  plain: w.model.outputs.toJSON().map(o => [o.data?.['text/plain'] ?? o.text ?? ''].flat().join('')).join('\n'),
  live: area.querySelectorAll('svg[role=img]').length, images: cards.length, loaded: [...area.querySelectorAll('img')].every(e => e.complete && e.naturalWidth > 0),
  rows: area.querySelectorAll('tbody tr').length, points: Math.max(0, ...points(area), ...cards.map(points).flat())};"""


class Checks:
    def __init__(self):
        self.passed = self.failed = 0
        self.began = time.monotonic()

    def __call__(self, what, holds, found=""):
        self.passed += bool(holds)
        self.failed += not holds
        print(f"    {'ok  ' if holds else 'FAIL'} {time.monotonic() - self.began:5.1f} s  {what}" + (f": {found}" if found != "" else ""), flush=True)


def engine(socket_path, verb, **args):
    """Asks the engine, as another notebook would."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(socket_path)
        s.sendall(json.dumps({"v": 1, "verb": verb, "args": args}).encode() + b"\n")
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    return answer.decode()


class Story:
    """The steps of the test, in their order; each leaves the page as the next one finds it."""

    def __init__(self, lab, folder, out, check, sock):
        self.lab, self.folder, self.out, self.check, self.sock = lab, folder, out, check, sock
        self.train = lab.cell("run.Train()")
        self.plot = lab.cell("Plot(")
        lab.sidebar(False)

    def shown(self, index):
        return self.lab.ask(SHOWN, index)

    def samples(self):
        return self.lab.ask("return window.samples;")

    def wait_step(self, step):
        self.lab.page.wait_for_function("(step) => window.samples.some(s => s.step >= step && s.chart)", arg=step, timeout=90_000)

    def no_errors(self, when):
        bad = [c["index"] for c in self.lab.cells() if "error" in c["outputs"]]
        self.check(f"{when}: no cell has an error", not bad, bad or "")

    def idle(self, when):
        self.lab.wait_idle(120)
        s = self.lab.status()
        bar = self.lab.page.locator("#jp-main-statusbar").inner_text()
        self.check(f"{when}: the status is idle", s["status"] == "idle" and "Go (gotune) | Idle" in bar, s)

    def picture(self, name, index):
        self.lab.show(index)
        self.lab.picture(self.out / f"{name}.png")

    def look(self, when, selector=OUTPUTS, dark=False):
        look = Look(self.lab.page, selector, dark)
        self.check(f"{when}: text has contrast", look.passes("text"), look.said("text"))
        self.check(f"{when}: lines have contrast", look.passes("line"), look.said("line"))
        self.check(f"{when}: no texts over each other", not look.clashes, look.clashes[:5] or "")
        if look.pictures:
            self.check(f"{when}: pictures show", not look.blind, f"{look.pictures} pictures, {look.blind} blind")
        return look

    # The steps.

    def opened(self):
        s = self.lab.status()
        self.check("the notebook opens with its kernel, idle", s["kernel"] == "Go (gotune)" and s["status"] == "idle", s)

    def run_all_and_interrupt(self):
        lab, check = self.lab, self.check
        lab.show(self.train)
        lab.ask(WATCH, self.train)
        lab.start_all()
        self.wait_step(30)
        self.picture("live-light", self.train)
        self.look("live, light", f'.jp-Cell[data-windowed-list-index="{self.train}"] .jp-OutputArea-output')
        lab.theme("dark")
        self.picture("live-dark", self.train)
        self.look("live, dark", f'.jp-Cell[data-windowed-list-index="{self.train}"] .jp-OutputArea-output')
        lab.theme("light")
        self.wait_step(55)
        began = time.monotonic()
        lab.page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').first.click()
        lab.page.wait_for_function("(i) => /checkpoint-/.test(window.jupyterapp.shell.currentWidget.content.widgets[i].outputArea.node.innerText)", arg=self.train, timeout=30_000)
        took = time.monotonic() - began
        self.idle("after the interrupt")
        self.live_samples("the first run")
        shown = self.shown(self.train)
        m = re.search(r"stopped at step (\d+) of \d+, checkpoint (\S+?);? run the cell again to go on from there", shown["text"])
        check("the interrupted cell says where it stopped and what to do", m is not None, shown["text"][:120] if not m else m.group(0)[-110:])
        check("the checkpoint is on the disk", m is not None and (Path(m.group(2).rstrip(";")) / "adapter_model.safetensors").is_file(), m and m.group(2))
        check("the interrupt took less than 5 s with its checkpoint", took < 5, f"{took:.1f} s")
        behind = self.shown(self.plot)
        check("the cells behind it did not run", not behind["kinds"], behind["kinds"] or "")
        self.no_errors("after the interrupt")
        self.stopped = int(m.group(1)) if m else 0
        self.picture("interrupted-light", self.train)

    def live_samples(self, what):
        check, all_ = self.check, [s for s in self.samples() if s["height"]]  # without those of a cell that was not on screen
        live = [s for s in all_ if s["live"]]
        charted = [s for s in live if s["step"] > 0]
        steps = [s["step"] for s in charted]
        check(f"{what}: the loss chart is there from its first step on", len(charted) > 10 and all(s["chart"] for s in charted), f"{len(charted)} samples")
        check(f"{what}: steps go up", steps == sorted(steps) and len(set(steps)) >= 6, f"{len(set(steps))} different")
        check(f"{what}: rows of the table increase", len(charted) > 0 and charted[-1]["rows"] > charted[0]["rows"], f"{charted[0]['rows']} to {charted[-1]['rows']}")
        check(f"{what}: the time left is shown", all(s["left"] or s["stopping"] for s in charted))
        heights = collections.Counter(round(s["height"]) for s in live)
        check(f"{what}: the live block keeps its height", len(heights) == 1, f"px in how many samples: {dict(heights)}")
        tops = collections.Counter(round(s["top"]) for s in charted)
        check(f"{what}: the chart keeps its place", len(tops) == 1, f"px below the output's top in how many samples: {dict(tops)}")
        begun = next((i for i, s in enumerate(all_) if s["step"] > 0), 0)
        gone = [s for s in all_[begun:] if not s["chart"] and s["live"]]
        check(f"{what}: nothing takes the chart's place", not gone, f"{len(gone)} samples without")

    def rate(self):
        """Updates of the page while it trained: at most 4 in any second."""
        got = self.lab.ask("return window.messages.filter(m => m.type === 'update_display_data' || m.type === 'display_data');")
        ids = {m["id"] for m in got if m["type"] == "update_display_data"}
        self.check("live updates came", len(ids) > 0, f"{len(got)} displays and updates, ids {len(ids)}")
        for id_ in ids:
            times = sorted(m["arrived"] for m in got if m["id"] == id_)
            # Five updates span four waits of 250 ms; a busy page may take the first one late. The two at the end, "stopping" and what is left, are told at once.
            paced = times[:-2]
            spans = [b - a for a, b in zip(paced, paced[4:])]
            mean = (len(paced) - 1) / (paced[-1] - paced[0]) if len(paced) > 4 else 0
            self.check("at most 4 updates a second", mean <= 4 and all(s >= 0.75 for s in spans), f"{len(times)} updates, {mean:.1f} a second, five in {min(spans, default=9):.2f} s at least")
        most = max((m["bytes"] for m in got), default=0)
        self.check("an update is small", most < 100_000, f"{most} bytes at most")

    def again_pause_reload(self):
        lab, check = self.lab, self.check
        lab.ask(WATCH, self.train)
        lab.start(self.train)
        lab.page.wait_for_function("(step) => window.samples.some(s => s.live && s.step > step)", arg=self.stopped + 4, timeout=60_000)
        first = next(s["step"] for s in self.samples() if s["live"] and s["step"] > 0)
        check("run again, the cell goes on from the checkpoint", first >= self.stopped, f"step {first} after {self.stopped}")
        engine(self.sock, "run.pause", Name=RUN)
        lab.page.wait_for_function("(i) => /paused until Resume/.test(window.jupyterapp.shell.currentWidget.content.widgets[i].outputArea.node.innerText)", arg=self.train, timeout=30_000)
        shown = self.shown(self.train)
        self.paused = int(re.search(r"step (\d+) of", shown["text"]).group(1))
        check("its chart has every step since the first", shown["points"] == self.paused, f"{shown['points']} points at step {self.paused}")
        check("a pause from elsewhere shows in chart and table", "paused" in shown["text"] and "by hand" in shown["text"])
        self.picture("paused-light", self.train)
        lab.command("docmanager:save")
        lab.reload()
        again = self.shown(self.train)
        check("a page reloaded in the middle has what was saved", f"step {self.paused} of" in again["text"] and again["live"] == 1, again["text"][:70])
        check("and says what to do", "Restart the kernel and run this cell again" in again["text"])

    def restart_and_run_all(self):
        lab, check = self.lab, self.check
        lab.ask("void window.jupyterapp.commands.execute('kernelmenu:restart');")
        lab.page.locator(".jp-Dialog .jp-mod-accept").click()
        lab.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.kernelDisplayStatus === 'idle'", timeout=30_000)
        self.idle("after the restart")
        lab.ask("for (const w of window.jupyterapp.shell.currentWidget.content.widgets) if (w.model.type === 'code') w.outputArea.model.clear();")
        lab.ask("window.messages = [];")
        lab.ask(WATCH, self.train)
        lab.start_all()
        lab.page.wait_for_function("(step) => window.samples.some(s => s.live && s.step >= step)", arg=self.paused, timeout=60_000)
        answer = engine(self.sock, "run.resume", Name=RUN)
        check("a restart leaves the paused run as it was", '"error"' not in answer, answer[:200] if '"error"' in answer else "")
        lab.page.wait_for_function("(step) => window.samples.some(s => s.live && s.step > step)", arg=self.paused + 3, timeout=60_000)
        live = [s for s in self.samples() if s["live"] and s["step"]]
        check("after a restart the cell goes on with the run, and draws its whole history", all(s["points"] == s["step"] >= self.paused for s in live), f"from step {live[0]['step']}, {live[0]['points']} points, after {self.paused}")
        self.idle("run all after the restart")
        self.no_errors("run all after the restart")
        counts = [c["count"] for c in lab.cells() if c["type"] == "code"]
        check("every cell ran, in order", counts == list(range(1, len(counts) + 1)), counts)

    def finished(self):
        shown = self.shown(self.train)
        self.final = shown
        self.check("the finished run is one picture with every step", shown["images"] == 1 and shown["live"] == 0 and shown["loaded"] and shown["points"] == STEPS, f"{shown['points']} points, {shown['images']} pictures")
        self.check("its table and facts are there", shown["rows"] > 15 and f"done, {STEPS} steps" in shown["text"], f"{shown['rows']} rows")
        self.check("its text says the same", re.search(r"loss +\d\.\d+ → \d\.\d+", shown["plain"]) is not None, shown["plain"].strip()[:60])

    def themes(self):
        lab = self.lab
        for theme in ("light", "dark"):
            lab.theme(theme)
            look = self.look(theme, dark=theme == "dark")
            self.check(f"{theme}: nothing is wider than the page", not look.wide, look.wide or "")
            for index, name in ((self.train, "trained"), (self.plot, "plot"), (lab.cell("ShowTemplate"), "data"), (lab.cell("Compare"), "answers"), (lab.cell("Doctor"), "doctor")):
                self.picture(f"{name}-{theme}", index)
            output = lab.show(self.train)
            want = [24, 24, 24] if theme == "dark" else [255, 255, 255]
            for system in ("light", "dark"):  # which must not matter
                lab.page.emulate_media(color_scheme=system)
                got = pixels(lab.page, output.locator("img").first)
                self.check(f"{theme}, the system {system}: the picture's pixels have the theme's colours", got["ground"] == want and got["most"] >= 4.5 and got["colors"] > 20, got)
            lab.page.emulate_media(color_scheme="light")
        lab.theme("light")

    def narrow(self):
        lab = self.lab
        lab.page.set_viewport_size({"width": 860, "height": 900})
        lab.sidebar(True)
        lab.page.wait_for_timeout(500)
        look = self.look("narrow, with the side bar")
        boxes = lab.ask(JS + "return [...nb.widgets[arg].outputArea.node.querySelectorAll('img')].map(e => [e.clientWidth, e.clientHeight, e.naturalWidth, e.naturalHeight]);", self.train)
        self.check("narrow: the picture keeps its shape", all(abs(w / h - nw / nh) < 0.05 for w, h, nw, nh in boxes) and len(boxes) == 1, boxes)
        self.picture("narrow-light", self.train)
        lab.sidebar(False)
        lab.page.set_viewport_size(WINDOW)

    def saved_and_reloaded(self):
        lab, check = self.lab, self.check
        lab.command("docmanager:save")
        lab.reload()
        again = self.shown(self.train)
        check("outputs survive a reload", again["html"] == self.final["html"] and again["loaded"] and again["points"] == STEPS)
        text = (self.folder / "short.ipynb").read_text()
        cell = json.loads(text)["cells"][self.train]
        html = "".join("".join(o.get("data", {}).get("text/html", [])) for o in cell["outputs"])
        check("the saved file has the figure, and no live one", html.count("data:image/svg+xml;base64,") == 1 and "<svg" not in html and "Page reloaded" not in html, f"{len(json.dumps(cell)) // 1024} KiB in the cell")
        check("every saved display has text", all("".join(o["data"].get("text/plain", [])).strip() for c in json.loads(text)["cells"] for o in c.get("outputs", []) if "data" in o))

    def untrusted(self):
        """What somebody sees who gets the file: JupyterLab removes SVG, scripts and styles from it."""
        nb = json.loads((self.folder / "short.ipynb").read_text())
        nb["cells"][0]["source"] = ["# A copy from elsewhere"]
        (self.folder / "copy.ipynb").write_text(json.dumps(nb))
        self.lab.open("copy.ipynb")
        shown = self.shown(self.train)
        trusted = self.lab.ask(JS + "return nb.widgets[arg].model.trusted;", self.train)
        self.check("a copy that is not trusted shows the figure and the table", not trusted and shown["images"] == 1 and shown["loaded"] and shown["rows"] == self.final["rows"], {"trusted": trusted} | {k: shown[k] for k in ("images", "loaded", "rows")})
        self.look("not trusted")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--chromium", required=True)
    p.add_argument("--socket", required=True)
    o = p.parse_args()
    out = Path(o.out).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    check = Checks()
    with own_settings() as folder:
        browser_notebook.write(folder / "short.ipynb")
        browser_kernel.write(folder / "kernel.ipynb")
        with open_lab(folder, o.chromium) as lab:
            try:
                right, found = measures_right(lab.page)
                check("known contrasts are measured right", right, "" if right else found)
                lab.open("short.ipynb")
                s = Story(lab, folder, out, check, o.socket)
                for step in (s.opened, s.run_all_and_interrupt, s.rate, s.again_pause_reload, s.restart_and_run_all, s.rate, s.finished, s.themes, s.narrow, s.saved_and_reloaded, s.untrusted):
                    step()
                browser_kernel.story(lab, out, check, RUN)
                browser_text.converted(lab.page, folder, out, check)
            except Exception as e:  # the rest of the story has lost its ground
                traceback.print_exc()
                lab.picture(out / "failed.png")
                check("the test came to its end", False, f"{type(e).__name__}: {str(e).splitlines()[0]}; the page then: {out / 'failed.png'}")
            shutil.copy(folder / "short.ipynb", out / "short.ipynb")
        try:
            browser_text.console(folder, out, check)
        except Exception as e:
            traceback.print_exc()
            check("jupyter console", False, f"{type(e).__name__}: {str(e)[:300]}")
    print(f"{check.passed} passed, {check.failed} failed")
    sys.exit(check.failed > 0)


main()
