"""bench_cells.py GONB [--runs N] [--starts N]: how long a notebook cell takes in the kernel "gotune" that imports only gotune, one
that does nothing, and one that imports nothing of gotune in plain GoNB, in turns; each run with changed code. From request to reply, by
jupyter_client. And in turns, how long both kernels take from their start to the reply to an empty cell, and then the first cell that
imports gotune. Prints rows for the table of scripts/bench."""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time

from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager

GOTUNE = 'import "github.com/gotune/gotune/gotune"\n\n%%\n_ = gotune.Dataset{{Name: "run {}"}}\n'
NOTHING = "%%\n// run {}\n"
PLAIN = 'import "fmt"\n\n%%\nfmt.Println("run {}")\n'


class Kernel:
    def __init__(self, name, folder, specs=None):
        self.manager = KernelManager(kernel_name=name)
        if specs:
            self.manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[specs])
        self.log = open(f"{folder}/{name}.log", "w+")
        began = time.perf_counter()
        self.manager.start_kernel(cwd=folder, stdout=self.log, stderr=self.log)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.run("")
        self.ready = time.perf_counter() - began

    def run(self, code):
        """Runs a cell; returns the seconds from its request to its reply."""
        began = time.perf_counter()
        request = self.client.execute(code)
        reply = self.client.get_shell_msg(timeout=300)
        seconds = time.perf_counter() - began
        said = []
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["content"].get("execution_state") == "idle":
                break
            said.append(str(message["content"]))
        if reply["parent_header"]["msg_id"] != request or reply["content"]["status"] != "ok":
            sys.exit(f"the cell failed:\n{code}\n{reply['content']}\n" + "\n".join(said) + f"\nlog: {open(self.log.name).read()[-2000:]}")
        return seconds

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)
        self.log.close()


def plain_spec(folder, gonb):
    """A kernelspec for GoNB as its own installer writes it."""
    os.makedirs(f"{folder}/gonb")
    with open(f"{folder}/gonb/kernel.json", "w") as f:
        json.dump({"argv": [gonb, "--kernel", "{connection_file}"], "display_name": "Go (gonb)", "language": "go", "env": {
            "PATH": os.path.dirname(gonb) + os.pathsep + os.environ["PATH"]}}, f)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("gonb", help="GoNB's binary")
    p.add_argument("--runs", type=int, default=15)
    p.add_argument("--starts", type=int, default=5)
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain_spec(f"{folder}/specs", o.gonb)
        specs = f"{folder}/specs"
        ready, first = ([], []), []
        for n in range(-1, o.starts):  # the first warms Go's cache and the file system's
            for side, kernel in enumerate((Kernel("gotune", folder), Kernel("gonb", folder, specs))):
                try:
                    if n >= 0:
                        ready[side].append(kernel.ready)
                    if side == 0:
                        seconds = kernel.run(GOTUNE.format(f"first {n}"))
                        first += [seconds] if n >= 0 else []
                finally:
                    kernel.end()
        gotune, gonb = Kernel("gotune", folder), Kernel("gonb", folder, specs)
        sides = [(gotune, GOTUNE), (gonb, PLAIN), (gotune, NOTHING)]
        try:
            took = [[], [], []]
            for n in range(-3, o.runs):  # the first three are the warm-up
                for side, (kernel, code) in enumerate(sides):
                    seconds = kernel.run(code.format(n))
                    if n >= 0:
                        took[side].append(seconds)
        finally:
            gotune.end()
            gonb.end()
    ours, plain, nothing = map(statistics.median, took)
    ratios = sorted(a / b for a, b in zip(*took[:2]))
    over = statistics.median(a - b for a, b in zip(took[0], took[2]))
    starts = [statistics.median(r) for r in ready]
    later = statistics.median(a - b for a, b in zip(*ready))
    ratio = statistics.median(ratios)
    print(f"cell: {o.runs} runs each in turns; load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; "
          f"gotune {min(took[0]):.2f}–{max(took[0]):.2f} s, GoNB {min(took[1]):.2f}–{max(took[1]):.2f} s; {o.starts} starts each: "
          f"gotune {min(ready[0]):.2f}–{max(ready[0]):.2f} s, GoNB {min(ready[1]):.2f}–{max(ready[1]):.2f} s, first cell {min(first):.2f}–{max(first):.2f} s")
    row = lambda *cells: print("ROW", *cells, sep="\t")
    verdict = lambda reached: "reached" if reached else "MISSED"
    row("warm cell that imports only gotune", f"{ours:.2f} s", "-", "-", "≤ 1.0 s", verdict(ours <= 1))
    row("  beside a cell in plain GoNB", f"{ours:.2f} s", f"plain GoNB {plain:.2f} s", f"{ratio:.2f}× ({ratios[0]:.2f}–{ratios[-1]:.2f})", "≤ 2.00×", verdict(ratio <= 2))
    row("  over one that does nothing", f"{ours:.2f} s", f"{nothing:.2f} s", f"{over:+.2f} s", "≤ +0.50 s", verdict(over <= 0.5))
    row("kernel from start to an empty cell's reply", f"{starts[0]:.2f} s", f"plain GoNB {starts[1]:.2f} s", f"{later:+.2f} s", "≤ +1.00 s", verdict(later <= 1))
    row("first cell of a kernel, imports gotune, warm Go cache", f"{statistics.median(first):.2f} s", "-", "-", "≤ 5.0 s", verdict(statistics.median(first) <= 5))


main()
