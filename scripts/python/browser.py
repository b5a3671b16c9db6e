"""browser.py NOTEBOOK OUT --chromium PATH: opens a copy of the notebook in JupyterLab, runs all cells, reloads the page, and takes
pictures in both themes. Exit status 1 when a cell failed, or when outputs are lost by the reload."""
import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WINDOW = {"width": 1280, "height": 900}

# What the page is asked, with JupyterLab's application as `app` and the open notebook as `nb`.
JS = "const app = window.jupyterapp; const nb = app.shell.currentWidget.content;"
CELLS = JS + """
return nb.widgets.map((w, i) => ({index: i, type: w.model.type, source: w.model.sharedModel.source, count: w.model.executionCount ?? null,
  outputs: w.model.type === 'code' ? w.model.outputs.toJSON().map(o => o.output_type) : []}));"""


@contextlib.contextmanager
def lab(folder):
    """A JupyterLab server that serves the folder; gives its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    log = open(folder / "jupyterlab.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={folder}", f"--port={port}", "--ServerApp.port_retries=0",
         f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True", "--allow-root"],
        stdout=log, stderr=log, cwd=folder)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=2)
                break
            except OSError:
                if server.poll() is not None:
                    sys.exit("JupyterLab ended while it started:\n" + (folder / "jupyterlab.log").read_text()[-3000:])
                time.sleep(0.1)
        yield base, token
    finally:
        server.terminate()
        server.wait(30)


def ask(page, js, arg=None):
    return page.evaluate(f"async (arg) => {{ {js} }}", arg)


def wait_open(page):
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 0", timeout=60_000)
    ask(page, "await window.jupyterapp.shell.currentWidget.context.ready; await window.jupyterapp.shell.currentWidget.sessionContext.ready;")


def pictures(page, out, wanted):
    """One picture of each wanted cell in each theme."""
    for theme, name in THEMES.items():
        ask(page, "await window.jupyterapp.commands.execute('apputils:change-theme', {theme: arg});", name)
        page.wait_for_timeout(1500)
        for label, index in wanted.items():
            ask(page, JS + "nb.activeCellIndex = arg; nb.mode = 'command'; await nb.scrollToItem(arg, 'start');", index)
            page.wait_for_timeout(1200)
            page.screenshot(path=out / f"{label}-{theme}.png")


def choose(cells):
    """The cells to take pictures of: the one that trains (else the last with a display) is called README."""
    code = [c for c in cells if c["type"] == "code" and c["outputs"]]
    shown = [c for c in code if "display_data" in c["outputs"] or "execute_result" in c["outputs"]] or code
    train = next((c for c in shown if ".Train()" in c["source"]), shown[-1])
    wanted = {"readme": train["index"]}
    for c in shown:
        for word in ("Doctor", "ShowTemplate", "ShowLengths", "base.Load", "Plot", "Compare", "Status"):
            if word + "(" in c["source"]:
                wanted[word.replace(".", "-").lower()] = c["index"]
    return wanted


def main():
    p = argparse.ArgumentParser()
    p.add_argument("notebook")
    p.add_argument("out")
    p.add_argument("--chromium", required=True)
    o = p.parse_args()
    out = Path(o.out).resolve()
    bad = []
    with tempfile.TemporaryDirectory(prefix="gotune-lab-") as tmp:
        folder = Path(tmp)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[name] = str(folder / ".jupyter" / name.lower())
        settings = Path(os.environ["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        name = Path(o.notebook).name
        shutil.copy(o.notebook, folder / name)
        with lab(folder) as (base, token), sync_playwright() as play:
            browser = play.chromium.launch(executable_path=o.chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
            page = browser.new_page(viewport=WINDOW)
            page.set_default_timeout(60_000)
            page.goto(f"{base}/lab/tree/{name}?token={token}")
            wait_open(page)
            began = time.monotonic()
            page.set_default_timeout(1_800_000)
            ask(page, "await window.jupyterapp.commands.execute('notebook:run-all-cells');")
            cells = ask(page, CELLS)
            failed = [c["index"] for c in cells if "error" in c["outputs"]]
            print(f"    all cells ran in {time.monotonic() - began:.0f} s; failed: {failed or 'none'}")
            if failed:
                bad.append(f"cells {failed} failed")
            ask(page, "await window.jupyterapp.commands.execute('docmanager:save');")
            page.reload()
            wait_open(page)
            again = ask(page, CELLS)
            lost = [a["index"] for a, b in zip(cells, again) if a["outputs"] != b["outputs"]]
            print(f"    outputs after a reload: {'lost in cells ' + str(lost) if lost else 'all there'}")
            if lost:
                bad.append(f"the outputs of cells {lost} are lost by a reload")
            ask(page, "if (!window.jupyterapp.shell.leftCollapsed) await window.jupyterapp.commands.execute('application:toggle-left-area');")
            pictures(page, out, choose(again))
            shutil.copy(folder / name, out / name)
            browser.close()
    if bad:
        sys.exit("; ".join(bad))


main()
