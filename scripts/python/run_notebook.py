"""run_notebook.py NOTEBOOK OUT --cwd DIR [--kernel NAME] [--timeout SECONDS]

Runs a notebook's cells in order, as "Run All" does, and writes it with its outputs to OUT, also when a cell fails. Shows
each cell's number, first line and seconds. Exit status 1 when a cell failed."""
import argparse
import sys
import threading
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

TICK = 15  # seconds between signs of life of a long cell


class Progress:
    """Says what runs; nbclient calls it before and after each cell."""

    def __init__(self, nb):
        self.cells = [i for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip()]
        self.running = None
        threading.Thread(target=self.tick, daemon=True).start()

    def start(self, cell, cell_index):
        k = self.cells.index(cell_index) + 1
        lines = [line.strip() for line in cell.source.splitlines()]
        first = next((s for s in lines if s and not s.startswith(("import", "//", "%%", "const", "var", "repo :=", "questions :="))), lines[0])
        print(f"    cell {k:2d} of {len(self.cells)}  {first[:72]:72s}", end=" ", flush=True)
        self.running = time.monotonic()

    def end(self, cell, cell_index, **_):
        if self.running is not None:
            print(f"{time.monotonic() - self.running:6.1f} s", flush=True)
        self.running = None

    def tick(self):
        while True:
            time.sleep(TICK)
            began = self.running
            if began is not None and time.monotonic() - began > TICK - 1:
                print(f"… {time.monotonic() - began:.0f} s", end=" ", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("notebook")
    p.add_argument("out")
    p.add_argument("--cwd", required=True)
    p.add_argument("--kernel", default="gotune")
    p.add_argument("--timeout", type=int, default=1800, help="of one cell")
    o = p.parse_args()
    nb = nbformat.read(o.notebook, as_version=4)
    progress = Progress(nb)
    client = NotebookClient(
        nb, timeout=o.timeout, kernel_name=o.kernel, resources={"metadata": {"path": o.cwd}}, coalesce_streams=True,
        on_cell_execute=progress.start, on_cell_executed=progress.end, on_cell_error=lambda cell, cell_index, **_: None)
    began = time.monotonic()
    failed = None
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        failed = e
    progress.running = None
    nbformat.write(nb, o.out)
    print(f"    {time.monotonic() - began:.1f} s in all, written to {o.out}")
    if failed is not None:
        print(f"\n{type(failed).__name__}: {failed}", file=sys.stderr)
        sys.exit(1)


main()
