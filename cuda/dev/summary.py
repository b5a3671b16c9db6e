"""summary.py TRACE [FROM_END]: adds up a trace of trace.c by kernel: calls, µs in all and each, and the time that the device idled.

FROM_END counts only the last so many seconds. Names of templates are cut."""
import collections
import gzip
import sys

lines = (gzip.open if sys.argv[1].endswith(".gz") else open)(sys.argv[1], "rt").read().splitlines()
rows = sorted((int(a), int(b), name) for a, b, _, name in (line.split("\t", 3) for line in lines if line.count("\t") > 2) if int(a))
if len(sys.argv) > 2:
    rows = [r for r in rows if r[0] > max(r[1] for r in rows) - float(sys.argv[2]) * 1e9]
count, total, busy, end = collections.Counter(), collections.Counter(), 0, rows[0][0]
for a, b, name in rows:
    count[name] += 1
    total[name] += b - a
    busy += max(0, b - max(a, end))
    end = max(end, b)
span = rows[-1][1] - rows[0][0]
print(f"{span / 1e6:.1f} ms, busy {busy / 1e6:.1f}, idle {(span - busy) / 1e6:.1f}")
for name, ns in total.most_common():
    print(f"{ns / 1e3:10.1f} µs {count[name]:6d} × {ns / 1e3 / count[name]:8.1f}  {name[:110]}")
