"""kernel_test.py GONB: runs jupyter_kernel_test on plain GoNB (the program GONB) and on the kernel "gotune", with the same
samples, and prints both scores. Exit status 1 unless ours fails nothing and passes more."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import jupyter_kernel_test

LIMIT = 40  # seconds a test may take: plain GoNB never answers is_complete_request


def samples(kernel):
    """The test cases by the names of their tests."""
    class KernelTest(jupyter_kernel_test.KernelTests):
        kernel_name = kernel
        language_name = "go"
        file_extension = ".go"
        code_hello_world = '%%\nfmt.Println("hello, world")'
        code_stderr = '%%\nfmt.Fprintln(os.Stderr, "oops")'
        completion_samples = [{"text": "%%\nfmt.Printl", "matches": ["Fprintln", "Println", "Sprintln"]}]
        complete_code_samples = ["func f() int { return 1 }", '%%\nfmt.Println("x")', "!ls", "%help"]
        incomplete_code_samples = ["func f() {", "%%\nfmt.Println(", "/* a comment"]
        invalid_code_samples = ["func f() }", "%%\nx := )"]
        code_generate_error = "%%\nthis does not compile"
        code_display_data = [{"code": "%version", "mime": "text/markdown"}]
        code_inspect_sample = "%%\nfmt.Println"
        # Values of cells and their history, pages, clearing: GoNB has none, so there it is the same code and fails or not by itself.
        code_execute_result = [{"code": "%gotune version", "mime": "text/plain"}]
        code_history_pattern = "%gotune vers*"
        code_page_something = "fmt.Println?"
        code_clear_output = '!printf "one\\033[H\\033[2Jtwo\\n"'  # as clear(1) and progress displays write it
        supported_history_operations = ("tail", "range", "search")

    class WelcomeTest(jupyter_kernel_test.IopubWelcomeTests):
        kernel_name = kernel
        support_iopub_welcome = True

    return {name: c for c in (KernelTest, WelcomeTest) for name in unittest.defaultTestLoader.getTestCaseNames(c)}


def give_up(cls):
    """Ends a test that hangs, and the kernel with it: GoNB cleans up on SIGTERM only."""
    print(json.dumps({"status": "failed", "why": f"no answer within {LIMIT} s"}), flush=True)
    os.kill(cls.km.provisioner.pid, signal.SIGTERM)
    time.sleep(2)
    os._exit(1)


def one(kernel, name):
    """Runs one test in this process and prints its outcome as JSON."""
    cls = samples(kernel)[name]
    timer = threading.Timer(LIMIT, give_up, [cls])
    timer.daemon = True
    timer.start()
    result = unittest.TestResult()
    unittest.TestSuite([cls(name)]).run(result)
    timer.cancel()
    bad = result.failures + result.errors
    if bad:
        outcome = {"status": "failed", "why": bad[0][1].strip().splitlines()[-1]}
    elif result.skipped:
        outcome = {"status": "skipped", "why": result.skipped[0][1]}
    else:
        outcome = {"status": "passed", "why": ""}
    print(json.dumps(outcome), flush=True)


def run(kernel):
    """Runs all tests, each in a process of its own: one that hangs costs itself only."""
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for name in samples(kernel):
        p = subprocess.run([sys.executable, __file__, "--one", kernel, name], stdout=subprocess.PIPE, text=True)
        outcome = json.loads(p.stdout.strip().splitlines()[-1]) if p.stdout.strip() else {"status": "failed", "why": f"exit status {p.returncode}"}
        count[outcome["status"]] += 1
        print(f"    {kernel:6s} {name:27s} {outcome['status']} {outcome['why']}", flush=True)
    return count


def main():
    gonb = os.path.abspath(sys.argv[1])
    os.environ["PATH"] = os.path.dirname(gonb) + os.pathsep + os.environ["PATH"]
    with tempfile.TemporaryDirectory() as tmp:
        spec = os.path.join(tmp, "kernels", "gonb")
        os.makedirs(spec)
        with open(os.path.join(spec, "kernel.json"), "w") as f:
            json.dump({"argv": [gonb, "--kernel", "{connection_file}", "--logtostderr=false", f"--log_dir={tmp}", "--stderrthreshold=FATAL"],
                       "display_name": "Go (gonb)", "language": "go", "interrupt_mode": "message"}, f)
        os.environ["JUPYTER_PATH"] = tmp
        scores = {kernel: run(kernel) for kernel in ("gonb", "gotune")}
    for kernel, c in scores.items():
        print(f"    score of {kernel}: {c['passed']} of {sum(c.values())}, {c['failed']} failed, {c['skipped']} skipped")
    if scores["gotune"]["failed"] or scores["gotune"]["passed"] <= scores["gonb"]["passed"]:
        sys.exit("the kernel gotune is to fail nothing and to pass more than plain GoNB")


if sys.argv[1] == "--one":
    one(*sys.argv[2:])
else:
    main()
