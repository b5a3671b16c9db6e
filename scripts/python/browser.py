"""browser.py NOTEBOOK OUT --chromium PATH: runs a copy of the notebook in JupyterLab and takes pictures of it in both themes: the
training cell (readme-light.png, readme-dark.png) and what the other verbs show. Exit status 1 when a cell failed."""
import argparse
import shutil
import sys
import time
from pathlib import Path

from browser_lab import open_lab, own_settings

VERBS = ("Doctor", "ShowTemplate", "ShowLengths", "base.Load", "Plot", "Compare", "Status")


def choose(cells):
    """The cells to take pictures of: the one that trains (else the last with a display) is for the README."""
    code = [c for c in cells if c["type"] == "code" and c["outputs"]]
    shown = [c for c in code if "display_data" in c["outputs"] or "execute_result" in c["outputs"]] or code
    train = next((c for c in shown if ".Train()" in c["source"]), shown[-1])
    wanted = {"readme": train["index"]}
    for c in shown:
        for verb in VERBS:
            if verb + "(" in c["source"]:
                wanted[verb.replace(".", "-").lower()] = c["index"]
    return wanted


def main():
    p = argparse.ArgumentParser()
    p.add_argument("notebook")
    p.add_argument("out")
    p.add_argument("--chromium", required=True)
    o = p.parse_args()
    out = Path(o.out).resolve()
    name = Path(o.notebook).name
    with own_settings() as folder:
        shutil.copy(o.notebook, folder / name)
        with open_lab(folder, o.chromium, scale=1.5) as lab:
            lab.open(name)
            began = time.monotonic()
            lab.start_all()
            lab.page.wait_for_timeout(1000)
            lab.wait_idle(1800)
            cells = lab.cells()
            failed = [c["index"] for c in cells if "error" in c["outputs"]]
            print(f"    all cells ran in {time.monotonic() - began:.0f} s; failed: {failed or 'none'}")
            lab.sidebar(False)
            for theme in ("light", "dark"):
                lab.theme(theme)
                for label, index in choose(cells).items():
                    lab.show(index)
                    lab.page.wait_for_timeout(300)
                    lab.picture(out / f"{label}-{theme}.png")
            lab.command("docmanager:save")
            shutil.copy(folder / name, out / name)
    if failed:
        sys.exit(f"cells {failed} failed")


main()
