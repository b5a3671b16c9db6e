"""What the kernel itself shows in JupyterLab: TensorBoard, help on a name, magics beside a busy cell, output that is drawn again."""
import re
import time

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

CELLS = [
    "%load_ext tensorboard\n%tensorboard --logdir results",
    "strings.TrimSpace?",
    "!echo up; sleep 5; echo over",
    "%gotune runs",
    r"""%%bash
for i in 1 2 3; do printf '\033[H\033[2J'; echo "frame $i"; sleep 0.3; done""",
]
TENSORBOARD, HELP, BUSY, LIVE, REDRAWN = range(len(CELLS))

TEXT = """const nb = window.jupyterapp.shell.currentWidget.content;
return [nb.widgets[arg].outputArea.node.innerText, nb.widgets[arg].prompt];"""


def write(path):
    kernel = {"name": "gotune", "display_name": "Go (gotune)", "language": "go"}
    nbformat.write(new_notebook(cells=[new_code_cell(c) for c in CELLS], metadata={"kernelspec": kernel}), path)


def story(lab, out, check, run):
    """Opens the notebook written by write beside the results of the run, and runs its cells."""
    lab.open("kernel.ipynb")
    text = lambda index: lab.ask(TEXT, index)[0]

    def wait(index, pattern, seconds):
        for _ in range(10 * seconds):
            if re.search(pattern, text(index)):
                return True
            time.sleep(0.1)
        return False

    lab.start(TENSORBOARD)
    check("TensorBoard is shown below its cell", wait(TENSORBOARD, r"http://(localhost|127\.0\.0\.1):\d+", 60), text(TENSORBOARD)[:120])
    lab.show(TENSORBOARD)
    frame = lab.page.frame_locator(".jp-OutputArea-output iframe")
    try:
        frame.get_by_text("eval/loss").first.wait_for(timeout=60_000)
        found = ""
    except Exception as e:
        found = str(e).splitlines()[0]
    lab.picture(out / "tensorboard-light.png")
    check("it is TensorBoard itself, with the run's losses", not found, found or frame.locator("body").inner_text()[:200])

    lab.start(HELP)
    check("NAME? shows what the name is", wait(HELP, "TrimSpace returns a slice", 40), text(HELP)[:120])

    lab.start(BUSY)
    wait(BUSY, "up", 20)
    time.sleep(1.5)  # what is sent in one go waits for its turn
    lab.start(LIVE)
    check("a magic runs beside a busy cell", wait(LIVE, run, 3) and lab.ask(TEXT, BUSY)[1] == "*", text(LIVE)[:120])
    status = lab.status()["status"]
    check("the kernel shows as busy meanwhile", status == "busy", status)
    check("and the busy cell ends as it would", wait(BUSY, "over", 20))

    lab.wait_idle()
    lab.start(REDRAWN)
    wait(REDRAWN, "frame 3", 20)
    lab.wait_idle()
    check("output that a program draws again is not piled up", text(REDRAWN).split() == ["frame", "3"], repr(text(REDRAWN)))
