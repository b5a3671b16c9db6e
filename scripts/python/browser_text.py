"""The outputs of a run without JupyterLab: in nbconvert's pages and texts, and in `jupyter console`."""
import re
import subprocess
import sys

import pexpect
from browser_look import Look
from browser_notebook import NOUNS, RUN, STEPS

RUNS = f"{RUN}: done, {STEPS} steps"


def convert(folder, *args):
    p = subprocess.run([sys.executable, "-m", "nbconvert", "short.ipynb", *args], cwd=folder, capture_output=True, text=True, timeout=120)
    if p.returncode:
        raise RuntimeError("nbconvert: " + p.stderr[-500:])
    return p.stderr


def converted(page, folder, out, check):
    """nbconvert's HTML, looked at in Chromium on its white page, and its Markdown, with displays as HTML and as text."""
    said = convert(folder, "--to", "html", "--output", "short.html")
    check("nbconvert to HTML has nothing to complain of", "alternative text" not in said, said.strip()[-80:])
    page.goto((folder / "short.html").as_uri())
    page.wait_for_load_state()
    look = Look(page, ".jp-OutputArea-output")
    check("nbconvert's HTML: text has contrast", look.passes("text"), look.said("text"))
    check("nbconvert's HTML: lines have contrast", look.passes("line"), look.said("line"))
    check("nbconvert's HTML: pictures show on white", look.pictures >= 3 and not look.blind and not any(look.dark), f"{look.pictures} pictures")
    page.locator("img").nth(1).scroll_into_view_if_needed()
    page.screenshot(path=out / "nbconvert.png")
    convert(folder, "--to", "markdown", "--output", "short.md")
    text = (folder / "short.md").read_text()
    check("nbconvert to Markdown has the figure", text.count("data:image/svg+xml;base64,") >= 3 and "<svg" not in text)
    convert(folder, "--to", "markdown", "--output", "plain.md", '--NbConvertBase.display_data_priority=["text/plain"]')
    text = (folder / "plain.md").read_text()
    check("nbconvert to text has the run in words", RUNS in text and re.search(rf"{STEPS}/{STEPS} +\d\.\d{{4}}", text) is not None and not re.search(r"<(div|table|img|svg)", text), f"{len(text)} characters")


# A run that only the console sees, in one line: the console takes several as several cells.
CONSOLE = """func main() { gotune.Must(gotune.Trainer{Name: "console", Model: gotune.Model{Name: "base", Source: "embedded"}, \
Dataset: gotune.Dataset{Name: "answers", Source: "embedded", Split: "train[:400]"}, LoRA: gotune.LoRA{Rank: 8, Targets: []string{"q_proj"}}, \
OutputDir: "console", MaxSteps: 20, LogSteps: 5, MaxSeqLength: 128}.Train()) }"""


def console(folder, out, check):
    """`jupyter console`: a run shows as text, when it begins and when it is done, and a finished one as well."""
    p = pexpect.spawn(sys.executable, ["-m", "jupyter_console", "--kernel", "gotune", "--simple-prompt", "--no-confirm-exit"],
                      cwd=str(folder), encoding="utf-8", timeout=120, dimensions=(50, 160))
    shown = []
    with open(out / "console.txt", "w") as log:
        p.logfile_read = log
        prompt = r"In \[\d*\]: "
        p.expect(prompt)
        for line in ('import "github.com/gotune/gotune/gotune"', CONSOLE, f'func main() {{ gotune.Must(gotune.Trainer{{Name: "{RUN}"}}.Attach()) }}', "%gotune status"):
            p.sendline(line)
            p.expect(prompt)
            shown.append(p.before)
        p.sendeof()
        p.expect(pexpect.EOF)
    _, trained, attached, status = shown
    # What is told first depends on how soon the first step is done.
    check("jupyter console says that a run begins", re.search(r'train run "console" …|console: step \d+ of 20, loss \d', trained) is not None)
    for what, text, steps in (("a run that it trains", trained, 20), ("a finished run", attached, STEPS)):
        check(f"jupyter console shows {what} as text", re.search(rf"state +done, {steps} steps", text) is not None and re.search(rf"{steps}/{steps} +\d\.\d{{4}}", text) is not None,
              f"{len(text.splitlines())} lines")
    check("jupyter console shows the engine's status", re.search(rf"run +{RUN} +done", status) is not None)
    check("jupyter console shows no HTML", not re.search(r"<(div|table|svg|img)", "".join(shown)))
