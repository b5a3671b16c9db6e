"""count_go_tests.py NAME < `go test -json`: shows each package's result as it comes and the output of what failed; writes
"PASSED FAILED SKIPPED" (tests without those that only group others) to the file COUNT. Exit status 1 when one failed.

usage: count_go_tests.py COUNT"""
import collections
import json
import sys

passed = failed = skipped = 0
output = collections.defaultdict(list)
parents = set()
packages = []
for line in sys.stdin:
    try:
        e = json.loads(line)
    except json.JSONDecodeError:
        print(line, end="", flush=True)  # of the compiler
        continue
    key = (e.get("Package") or e.get("ImportPath", ""), e.get("Test"))
    if e["Action"] in ("output", "build-output"):
        output[key].append(e["Output"])
        continue
    if key[1] and "/" in key[1] and e["Action"] == "run":
        parents.add((key[0], key[1].rsplit("/", 1)[0]))
    if e["Action"] not in ("pass", "fail", "skip", "build-fail"):
        continue
    if key[1]:
        if key not in parents:
            passed += e["Action"] == "pass"
            failed += e["Action"] == "fail"
            skipped += e["Action"] == "skip"
        if e["Action"] != "pass":
            print("".join(output[key]), end="", flush=True)
    else:
        broken = e["Action"] == "build-fail" or e.get("FailedBuild")
        if broken or e["Action"] == "fail":
            failed += bool(broken) or not any(k[0] == key[0] and k[1] for k in output)
            print("".join(output[key]), end="")
            packages.append(key[0])
        if e["Action"] != "build-fail":
            print(f"    {e['Action']:4s} {key[0]}  {e.get('Elapsed', 0):.1f} s", flush=True)
    output.pop(key, None) if key[1] else None
with open(sys.argv[1], "w") as f:
    f.write(f"{passed} {failed} {skipped}\n")
print(f"    {passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or packages else 0)
