"""check_notebooks.py OUT SECONDS02 SECONDS03: looks at what scripts/notebooks left in OUT: the executed notebooks 02 and
03, and their files. The seconds are what each took.

Each line is one check. Exit status 1 when one fails; the last line counts them."""
import json
import re
import sys
from pathlib import Path

OUT = Path(sys.argv[1])
PASSED = FAILED = 0
LIMIT = 300  # seconds for a notebook of one minute, on a machine that may do other things beside


def check(what, ok, found=""):
    global PASSED, FAILED
    PASSED, FAILED = PASSED + bool(ok), FAILED + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {what}" + (f": {found}" if found != "" else ""), flush=True)


def text(cell):
    """What a console would show of the cell."""
    parts = []
    for o in cell["outputs"]:
        parts += ["".join(o.get("text", "")), "".join(o.get("data", {}).get("text/plain", ""))] + o.get("traceback", [])
    return "\n".join(parts)


def cell_with(cells, code):
    """The outputs of the one cell whose source has the code."""
    found = [c for c in cells if code in "".join(c["source"])]
    check(f"one cell has {code!r}", len(found) == 1, len(found))
    return text(found[0]) if found else ""


def notebook(name, seconds):
    nb = json.loads((OUT / name / "notebook.ipynb").read_text())
    cells = [c for c in nb["cells"] if c["cell_type"] == "code"]
    errors = [o["ename"] for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    check(f"{name}: no cell failed", not errors, errors or "")
    check(f"{name}: every cell ran", all(c["execution_count"] for c in cells), len(cells))
    silent = [i for i, c in enumerate(cells, 1) if "%%" in "".join(c["source"]) and not c["outputs"]]
    check(f"{name}: every cell that does something shows something", not silent, silent or "")
    stderr = [o["text"] for c in cells for o in c["outputs"] if o.get("name") == "stderr"]
    check(f"{name}: nothing on stderr", not stderr, stderr[:2] or "")
    check(f"{name}: the set-up cell does nothing here, and says so", "not Colab" in text(cells[0]), text(cells[0]).strip())
    check(f"{name}: below {LIMIT} s", float(seconds) < LIMIT, seconds)
    return cells


def number(pattern, found):
    m = re.search(pattern, found)
    return float(m[1]) if m else float("nan")


def own_data(seconds):
    cells = notebook("02", seconds)
    rows = cell_with(cells, 'os.Create("functions.jsonl")')
    check("rows were made", number(r"(\d+) rows to train on", rows) > 300 and number(r"(\d+) kept out", rows) > 30, rows.strip())
    written = (OUT / "02/functions.jsonl").read_text().splitlines()
    check("all of them in the template", all(json.loads(r)["text"].endswith(" </s>") for r in written), len(written))
    check("CSV with a column of another name", "text column  finished" in cell_with(cells, "heldout.ShowTemplate(0)"))
    check("a slice of a Parquet file", "1 row of 50" in cell_with(cells, "few.Show(1)"))
    check("lengths", "median" in cell_with(cells, "data.ShowLengths(base)"))
    check("the prompt form of the model", '"<s>[INST] What does' in cell_with(cells, "before.Rendered"))
    check("the first run stopped with a checkpoint", "stopped at step" in cell_with(cells, "run.Stop()"))
    resumed = cell_with(cells, "info.ResumedFrom")
    check("the second went on from there", number(r"went on from step (\d+)", resumed) >= 30, resumed.strip().splitlines()[-1])
    check("rows were packed", re.search(r"\d+ rows packed into \d+", resumed))
    check("the loss on what was kept out", number(r"kept out: ([0-9.]+)", resumed) < 0.6, number(r"kept out: ([0-9.]+)", resumed))
    tuned = re.findall(r"tuned:\n +(.*)", cell_with(cells, "run.CompareWith"))
    check("each tuned answer is a declaration", len(tuned) == 3 and all(t.startswith("func ") for t in tuned), tuned)
    adapter = json.loads((OUT / "02/adapter/adapter_config.json").read_text())
    check("the adapter is on all projections", len(adapter["target_modules"]) == 7, adapter["target_modules"])


def sweep(seconds):
    cells = notebook("03", seconds)
    lines = re.findall(r"^(r\d+ lr\S+) +loss ([0-9.]+), held out ([0-9.]+)", cell_with(cells, "gotune.SetOutput(io.Discard)"), re.M)
    check("six runs", len({n for n, _, _ in lines}) == 6, len(lines))
    check("they differ", len({e for _, _, e in lines}) > 1)
    plot = next(c for c in cells if "gotune.Plot(" in "".join(c["source"]))
    check("one picture of all", len([o for o in plot["outputs"] if "data:image/svg+xml" in "".join(o.get("data", {}).get("text/html", ""))]) == 1)
    check("with each run's name", all(n in text(plot) for n, _, _ in lines))
    best = min(lines, key=lambda r: float(r[2]))
    kept = cell_with(cells, 'best.Save("best")')
    check("the best is kept", f"the best is {best[0]}" in kept, best)
    adapter = json.loads((OUT / "03/best/adapter_config.json").read_text())
    check("with its rank", adapter["r"] == int(best[0][1:].split()[0]), adapter["r"])
    steered = cell_with(cells, "steered.Pause()")
    check("a run was held, asked and given a rate from another cell", all(w in steered for w in ("paused until", "prompt tokens", "1.00e-03", "went on after a pause")))
    check("and went on at that rate", "rate 0.001" in cell_with(cells, "steered.Stop()"))
    done = re.findall(r"^\d+ (.+)$", cell_with(cells, "steered.Show()"), re.M)
    check("all of it is in its record", done == ["pause", "sample", "learning rate", "resume", "stop"], done)


for part, seconds in ((own_data, sys.argv[2]), (sweep, sys.argv[3])):
    try:
        part(seconds)
    except Exception as e:  # what cannot be read in one notebook must not hide the other
        check(f"{part.__name__} can be read", False, f"{type(e).__name__}: {e}")
print(f"{PASSED} passed, {FAILED} failed")
sys.exit(FAILED > 0)
