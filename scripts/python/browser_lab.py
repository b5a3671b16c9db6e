"""JupyterLab in Chromium, without a window: what browser.py and browser_test.py drive."""
import contextlib
import os
import secrets
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

# What the page is asked, with JupyterLab's application as `app`, the open notebook's panel as `panel` and its cells as `nb`.
JS = "const app = window.jupyterapp; const panel = app.shell.currentWidget; const nb = panel.content;"
CELLS = JS + """
return nb.widgets.map((w, i) => ({index: i, type: w.model.type, source: w.model.sharedModel.source, count: w.model.executionCount ?? null,
  outputs: w.model.type === 'code' ? w.model.outputs.toJSON().map(o => o.output_type) : []}));"""

# Every message that the kernel sends to this page, with the time in seconds at which the kernel made it.
RECORD = JS + """
window.messages = [];
const kernel = panel.sessionContext.session.kernel;
kernel.anyMessage.connect((_, {msg, direction}) => {
  if (direction === 'recv') window.messages.push({type: msg.header.msg_type, time: Date.parse(msg.header.date) / 1000, arrived: performance.now() / 1000,
    id: msg.content?.transient?.display_id ?? null, bytes: JSON.stringify(msg.content).length});
});"""


@contextlib.contextmanager
def own_settings():
    """A folder for notebooks, and JupyterLab's settings for this process and its children apart from the user's."""
    with tempfile.TemporaryDirectory(prefix="gotune-lab-") as tmp:
        folder = Path(tmp)
        hidden = folder / ".jupyter"
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[name] = str(hidden / name.lower())
        news = Path(os.environ["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
        news.mkdir(parents=True)
        (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        yield folder


@contextlib.contextmanager
def server(folder):
    """A JupyterLab server that serves the folder; gives its address and token."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    path = folder / ".jupyter" / "jupyterlab.log"
    with open(path, "w") as log:
        p = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={folder}", f"--port={port}", "--ServerApp.port_retries=0",
             f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True", "--allow-root"],
            stdout=log, stderr=log, cwd=folder)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=2)
                break
            except OSError:
                if p.poll() is not None:
                    sys.exit("JupyterLab ended while it started:\n" + path.read_text()[-3000:])
                time.sleep(0.1)
        else:
            sys.exit("JupyterLab did not answer within a minute:\n" + path.read_text()[-3000:])
        yield base, token
    finally:
        p.terminate()
        p.wait(30)


class Lab:
    """One notebook, open in one page."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        page.set_default_timeout(60_000)

    def ask(self, js, arg=None):
        return self.page.evaluate(f"async (arg) => {{ {js} }}", arg)

    def command(self, name, args=None):
        return self.ask("return void await window.jupyterapp.commands.execute(arg[0], arg[1]);", [name, args or {}])

    def open(self, name):
        base, token = self.address
        self.name = name
        self.page.goto(f"{base}/lab/tree/{name}?token={token}")
        self.ready()

    def reload(self):
        self.page.reload()
        self.ready()

    def ready(self):
        """Waits until the notebook is open and its kernel has answered."""
        self.page.wait_for_function("(name) => { const p = window.jupyterapp?.shell.currentWidget; return p?.context?.path === name && p.content?.widgets?.length > 0; }",
                                    arg=self.name)
        self.ask("const p = window.jupyterapp.shell.currentWidget; await p.context.ready; await p.sessionContext.ready;"
                 "await p.sessionContext.session?.kernel?.info;")
        self.ask(RECORD)

    def cells(self):
        return self.ask(CELLS)

    def cell(self, text):
        """The index of the first code cell whose source has the text."""
        return next(c["index"] for c in self.cells() if c["type"] == "code" and text in c["source"])

    def status(self):
        """What the status bar and the toolbar show of the kernel."""
        return self.ask(JS + "return {kernel: panel.sessionContext.kernelDisplayName, status: panel.sessionContext.kernelDisplayStatus};")

    def wait_idle(self, seconds=60):
        """Waits until no cell runs or waits to."""
        self.page.wait_for_function("""() => { const p = window.jupyterapp.shell.currentWidget;
          return p.sessionContext.kernelDisplayStatus === 'idle' && !p.content.widgets.some(w => w.model.type === 'code' && w.prompt === '*'); }""",
                                    timeout=seconds * 1000)

    def start_all(self):
        """Run All, without waiting for its end."""
        self.ask("void window.jupyterapp.commands.execute('notebook:run-all-cells');")

    def start(self, index):
        """Runs a cell, without waiting for its end."""
        self.ask(JS + "nb.deselectAll(); nb.activeCellIndex = arg; void app.commands.execute('notebook:run-cell');", index)

    def show(self, index, align="start"):
        """Scrolls to a cell and gives the element of its outputs."""
        self.ask(JS + "nb.deselectAll(); nb.activeCellIndex = arg[0]; nb.mode = 'command'; await nb.scrollToItem(arg[0], arg[1]);", [index, align])
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"] .jp-Cell-outputArea')

    def theme(self, name):
        self.ask("window.quiet = true;")  # while the style sheets change, nothing is where it belongs
        self.command("apputils:change-theme", {"theme": THEMES[name]})
        self.page.wait_for_function("(dark) => document.body.dataset.jpThemeLight === (dark ? 'false' : 'true')", arg=name == "dark")
        self.page.wait_for_timeout(300)  # the theme's transitions
        self.ask("window.quiet = false;")

    def sidebar(self, shown):
        self.ask("const s = window.jupyterapp.shell; if (s.leftCollapsed === arg) await window.jupyterapp.commands.execute('application:toggle-left-area');", shown)
        self.page.wait_for_timeout(200)

    def picture(self, path):
        self.page.screenshot(path=path)


@contextlib.contextmanager
def open_lab(folder, chromium, scale=1):
    """A Lab for the notebooks of the folder; pictures of it have scale pixels for each of the page's."""
    # Without the sandbox, which root and most containers can't have: the pages are our own.
    with server(folder) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield Lab(browser.new_page(viewport=WINDOW, device_scale_factor=scale), address)
        browser.close()
