"""editor_test.py JUPYTER: the kernel "gotune" under VS Code's notebook client (editor_client.py), from the launch to a
restart that ends every process below the kernel. JUPYTER is the program that knows where the kernel is.

Each line is one check. Exit status 1 when one fails; the last line counts them."""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from editor_client import Client

PASSED = FAILED = 0
IMPORT = 'import "github.com/gotune/gotune/gotune"\n\n'
RUN = """var run = gotune.Trainer{
	Name: "editor", OutputDir: "editor", Model: gotune.Model{Name: "base", Source: "embedded", Device: "xla:cpu"},
	Dataset: gotune.Dataset{Name: "few", Source: "embedded", Split: "train[:64]"},
	LoRA: gotune.LoRA{Rank: 4, Alpha: 8}, BatchSize: 2, MaxSeqLength: 64, MaxSteps: 20000, SaveSteps: -1, LogSteps: 1000,
}
"""


def check(what, ok, found=""):
    global PASSED, FAILED
    PASSED, FAILED = PASSED + bool(ok), FAILED + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {what}" + (f": {found}" if found != "" else ""), flush=True)


def cells(c):
    """Cells, hidden code and requests between them."""
    c.early = c.send("shell", "complete_request", {"code": "__file__.", "cursor_pos": 9})  # warms the completer up; nobody waits
    one = c.run('%%\nfmt.Println("one")')
    check("the first cell", one.reply["status"] == "ok" and one.text == "one\n", (one.reply["status"], one.text))
    check("busy, its code, its output, idle", one.states == ["busy", "idle"] and one.messages[0]["msg_type"] == "execute_input", one.states)
    check("it has number 1", one.reply["execution_count"] == 1 == one.of("execute_input")[0]["execution_count"], one.reply["execution_count"])
    hidden = c.run('%%\nfmt.Println("hidden")', store_history=False)
    check("hidden code shows its output", hidden.text == "hidden\n", hidden.text)
    silent = c.run('%%\nfmt.Println("silent")', silent=True, store_history=False)
    check("silent code shows nothing", silent.reply["status"] == "ok" and not silent.messages, len(silent.messages))
    bad = c.run("%%\nno such thing")
    error = (bad.of("error") or [{}])[0]
    check("an error has a name, a text and a traceback", bad.reply["status"] == "error" and error.get("ename") and error.get("traceback"), error.get("ename"))
    check("it took number 2: hidden and silent code took none", bad.of("execute_input")[0]["execution_count"] == 2, bad.of("execute_input")[0]["execution_count"])
    first, second = c.begin("%%\nnix()"), c.begin('%%\nfmt.Println("behind")')
    # Both answers are collected as they come, whichever is first.
    stop_at = time.monotonic() + 60
    while not all(r.reply and "idle" in r.states for r in (first, second)) and time.monotonic() < stop_at:
        for channel, m in c.receive(0.2):
            r = next((r for r in (first, second) if r.request == m["parent_header"].get("msg_id")), None)
            if r is None:
                c.strays.append((channel, m))
            elif channel == "shell":
                r.reply = m["content"]
            elif m["msg_type"] == "status":
                r.states.append(m["content"]["execution_state"])
            else:
                r.messages.append(m)
    check("a cell behind one that fails runs", first.reply["status"] == "error" and second.text == "behind\n", (first.reply["status"], second.text))
    asked = c.run("%with_inputs\n!read -p name? x; echo got $x", answer="Ada")
    check("input is asked for on stdin, and its answer arrives", "got Ada" in asked.text, asked.text.strip())
    display = c.run(IMPORT + "%%\ngotune.Must(gotune.Doctor())")
    data = [d["data"] for d in display.of("display_data")]
    check("a display has HTML and text", any("text/html" in d and "text/plain" in d for d in data), [sorted(d) for d in data])


def requests(c):
    code = IMPORT + "%%\ngotune.Must(gotune.Trai"
    matches = c.ask("complete_request", {"code": code, "cursor_pos": len(code)})["matches"]
    check("completion", any("Trainer" in m for m in matches), matches[:5])
    early = [m for _, m in c.strays if m["parent_header"].get("msg_id") == c.early and m["msg_type"] == "complete_reply"]
    check("one from before the first cell was answered, too", len(early) == 1, len(early))
    code = IMPORT + "%%\ngotune.Must(gotune.Doctor())"
    found = c.ask("inspect_request", {"code": code, "cursor_pos": code.index("Doctor") + 2, "detail_level": 0})
    check("inspection", found["found"] and "Doctor" in json.dumps(found["data"]), found.get("found"))
    check("completeness", c.ask("is_complete_request", {"code": "func f() {"})["status"] == "incomplete")
    check("comms", c.ask("comm_info_request", {"target_name": "jupyter.widget"})["comms"] == {})
    check("history", len(c.ask("history_request", {"hist_access_type": "tail", "n": 3, "output": False, "raw": True})["history"]) == 3)


def interrupts(c):
    check("the spec says how to interrupt", c.spec.get("interrupt_mode") == "message", c.spec.get("interrupt_mode"))
    long = c.begin('%%\nfmt.Println("up"); time.Sleep(time.Hour)')
    c.follow(long, 60, until=lambda r: "up" in r.text)
    long.seconds = 0
    c.interrupt(long)
    check("an interrupted cell ends within a second", long.reply["status"] == "error" and long.seconds < 1, f"{long.seconds:.2f} s")
    train = c.begin(IMPORT + RUN + "\n%%\ngotune.Must(run.Train())")
    c.follow(train, 120, until=lambda r: "of 20000" in r.shown)
    check("training shows itself", "of 20000" in train.shown)
    c.interrupt(train)
    left = list((Path(c.cwd) / "editor").glob("checkpoint-*"))
    check("interrupted training stops with a checkpoint", "stopped at step" in train.shown and left, [p.name for p in left])
    following = c.run('%%\nfmt.Println("next")')
    check("the next cell runs", following.text == "next\n", following.reply if following.text != "next\n" else "")


def restart(c, folder, cwd):
    """A run goes on in the engine when no cell waits for it. The client's restart must not end it."""
    c.run(IMPORT + """%%
go run.Train()
for {
	if info, err := run.Record(); err == nil && info.State == gotune.RunRunning {
		fmt.Println("under way")
		break
	}
	time.Sleep(50 * time.Millisecond)
}""")
    lock = Path(os.environ["GOTUNE_SOCKET"])
    engine = [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[1:2] == ["engine"] and p.environ().get("GOTUNE_SOCKET") == str(lock)]
    check("one engine", len(engine) == 1, len(engine))
    kernel = psutil.Process(c.process.pid)
    below = c.dispose()
    after = Client(c.spec, folder, cwd)
    seconds = after.start()
    check("the kernel is there again", after.language["name"] == "go", f"{seconds:.1f} s")
    gone, alive = psutil.wait_procs([p for p in below if p not in engine] + [kernel], timeout=10)
    check("the old one left no process", not alive, [p.name() for p in alive])
    check("its engine is not below it, out of the restart's reach", not any(p in below for p in engine))
    check("the engine lives", all(p.is_running() for p in engine))
    again = after.run(IMPORT + '%%\ninfo := gotune.Must(gotune.Trainer{Name: "editor"}.Record())\nfmt.Println("state", info.State)')
    check("its run goes on", "state running" in again.text, again.text.strip() or again.reply)
    check("the count begins anew", again.reply["execution_count"] == 1, again.reply["execution_count"])
    after.run(IMPORT + '%%\ngotune.Must(gotune.Trainer{Name: "editor"}.Stop())')
    return after


def main():
    spec = json.loads(subprocess.check_output([sys.argv[1], "kernelspec", "list", "--json"]))["kernelspecs"]["gotune"]["spec"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cwd:
        c = Client(spec, folder, cwd)
        seconds = c.start()
        check("ready, after looks at its ports and pairs of kernel_info", c.language["name"] == "go", f"{seconds:.1f} s")
        for part in (cells, requests, interrupts):
            try:
                part(c)
            except Exception as e:  # the parts don't need each other
                check(f"{part.__name__} got to its end", False, f"{type(e).__name__}: {e}")
        after = c
        try:
            after = restart(c, folder, cwd)
        except Exception as e:
            check("restart got to its end", False, f"{type(e).__name__}: {e}")
        check("no message that the client would drop", not c.bad + after.bad, (c.bad + after.bad)[:3] or "")
        kernel, below = psutil.Process(after.process.pid), after.dispose()
        _, alive = psutil.wait_procs(below + [kernel], timeout=10)
        check("a closed notebook leaves no process", not alive, [p.name() for p in alive] or "")
    print(f"{PASSED} passed, {FAILED} failed")
    sys.exit(FAILED > 0)


main()
