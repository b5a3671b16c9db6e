"""kernel_test.py GONB: runs jupyter_kernel_test on plain GoNB (the program GONB) and on the kernel "gotune", with the same
samples, and prints both scores. Exit status 1 unless ours fails nothing and passes more."""
import json
import os
import signal
import sys
import tempfile
import unittest

import jupyter_kernel_test

LIMIT = 60  # seconds a test may take: plain GoNB never answers is_complete_request


def samples(kernel):
    class KernelTest(jupyter_kernel_test.KernelTests):
        kernel_name = kernel
        language_name = "go"
        file_extension = ".go"
        code_hello_world = '%%\nfmt.Println("hello, world")'
        code_stderr = '%%\nfmt.Fprintln(os.Stderr, "oops")'
        completion_samples = [{"text": "%%\nfmt.Printl", "matches": ["Println"]}]
        complete_code_samples = ["func f() int { return 1 }", '%%\nfmt.Println("x")', "!ls", "%help"]
        incomplete_code_samples = ["func f() {", "%%\nfmt.Println(", "/* a comment"]
        invalid_code_samples = ["func f() }", "%%\nx := )"]
        code_generate_error = "%%\nthis does not compile"
        code_display_data = [{"code": '%%\ngonbui.DisplayHtml("<b>x</b>")\ngonbui.Sync()', "mime": "text/html"}]
        code_inspect_sample = "%%\nfmt.Println"
        # Values of cells and the history of them: GoNB has neither, so there it is the same code and fails or not by itself.
        code_execute_result = [{"code": "%gotune version", "mime": "text/plain"}]
        code_history_pattern = "%gotune vers*"
        supported_history_operations = ("tail", "range", "search")

        def setUp(self):
            signal.signal(signal.SIGALRM, self.late)
            signal.alarm(LIMIT)

        def tearDown(self):
            signal.alarm(0)

        @staticmethod
        def late(*_):
            raise TimeoutError(f"no answer within {LIMIT} s")

    return KernelTest


def run(kernel):
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(samples(kernel))
    result = unittest.TestResult()
    suite.run(result)
    bad = {}
    for test, trace in result.failures + result.errors:
        bad[getattr(test, "test_case", test).id().split(".")[-1]] = trace.strip().splitlines()[-1]
    skipped = {t.id().split(".")[-1]: why for t, why in result.skipped}
    passed = result.testsRun - len(bad) - len([s for s in skipped if s not in bad])
    print(f"{kernel}: {passed} passed, {len(bad)} failed, {len(skipped)} skipped")
    for name, why in bad.items():
        print(f"    failed   {name}: {why}")
    for name, why in skipped.items():
        print(f"    skipped  {name}: {why}")
    return passed, len(bad)


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
        theirs, _ = run("gonb")
        ours, failed = run("gotune")
    if failed or ours <= theirs:
        sys.exit("the kernel gotune is to fail nothing and to pass more than plain GoNB")


main()
