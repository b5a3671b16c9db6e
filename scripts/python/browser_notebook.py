"""The notebook that browser_test.py opens: a run of the embedded model that is short, and everything that has a display of its own."""
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

RUN = "gopher-browser"
STEPS = 220

NOUNS = f'''import "github.com/gotune/gotune/gotune"

var data = gotune.Dataset{{Name: "answers", Source: "embedded", Split: "train[:400]"}}
var heldout = gotune.Dataset{{Name: "heldout", Source: "embedded:heldout", Split: "train[:24]"}}
var base = gotune.Model{{Name: "base", Source: "embedded"}}
var run = gotune.Trainer{{
	Name: "{RUN}", Model: base, Dataset: data, Eval: heldout, EvalSteps: 50, OutputDir: "results",
	LoRA: gotune.LoRA{{Rank: 16, Alpha: 16, Targets: []string{{"q_proj", "v_proj"}}}},
	MaxSteps: {STEPS}, LogSteps: 10, SaveSteps: 25, LearningRate: 1e-3, MaxSeqLength: 256, GroupByLength: true,
}}'''

CELLS = [
    NOUNS + "\n\n%%\ngotune.Must(gotune.Doctor())",
    "%%\ngotune.Must(data.ShowTemplate(0))\ngotune.Must(data.ShowLengths(base))",
    "%%\ngotune.Must(run.Train())",
    "%%\ngotune.Check(gotune.Plot(gotune.PlotOptions{}, run))",
    '%%\ngotune.Must(run.Compare("What does strings.TrimSpace do?"))\ngotune.Must(run.Generate("What is a Mutex?", gotune.Sampling{MaxLength: 60}))',
    "%gotune status",
]


def write(path):
    cells = [new_markdown_cell("# A short run")] + [new_code_cell(c) for c in CELLS]
    kernel = {"name": "gotune", "display_name": "Go (gotune)", "language": "go"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
