package jinja

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Templates that would run for ever, nest for ever or fill the memory end with an
// error, and soon.
func TestLimits(t *testing.T) {
	deep := func(open, mid, end string, n int) string {
		return strings.Repeat(open, n) + mid + strings.Repeat(end, n)
	}
	grow := "{% set ns = namespace(x=" + "%s" + ") %}{% for i in range(1000) %}{% set ns.x = %s %}{% endfor %}"
	fill := func(init, next, use string) string {
		return strings.Replace(strings.Replace(grow, "%s", init, 1), "%s", next, 1) + use
	}
	for name, src := range map[string]string{
		"nested loops":        deep("{% for a in range(1000) %}", "x", "{% endfor %}", 4),
		"deep loops":          deep("{% for a in [1] %}", "x", "{% endfor %}", 1000),
		"endless macro":       "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"endless loop call":   "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
		"caller of caller":    "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
		"deep parentheses":    "{{ " + deep("(", "1", ")", 100_000) + " }}",
		"deep lists":          "{{ " + deep("[", "1", "]", 100_000) + " }}",
		"deep not":            "{{ " + strings.Repeat("not ", 100_000) + "1 }}",
		"deep minus":          "{{ " + strings.Repeat("-", 100_000) + "1 }}",
		"long sum":            "{{ 1" + strings.Repeat("+1", 400_000) + " }}",
		"long attribute":      "{{ a" + strings.Repeat(".a", 400_000) + " }}",
		"long filters":        "{{ a" + strings.Repeat("|e", 400_000) + " }}",
		"deep targets":        "{% set " + deep("(", "a", ")", 100_000) + " = 1 %}",
		"long template":       strings.Repeat("x", maxTemplate+1),
		"text times":          "{{ 'x' * 1000000000000 }}",
		"list times":          "{{ [1] * 1000000000000 }}",
		"doubled text":        fill("'x'", "ns.x ~ ns.x", "{{ ns.x }}"),
		"doubled list":        fill("[1]", "ns.x + ns.x", ""),
		"shared lists":        fill("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
		"shared lists joined": fill("[1]", "[ns.x, ns.x]", "{{ ns.x ~ '' }}"),
		"shared lists equal":  fill("[1]", "[ns.x, ns.x]", "{{ ns.x == [ns.x, 1] }}{{ ns.x == ns.x[0] }}"),
		"shared lists json":   fill("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
		"shared tuples key":   fill("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
		"missing key":         fill("[1]", "[ns.x, ns.x]", "{{ [1][ns.x] + 1 }}"),
		"replace":             "{% set a = 'x' * 100000 %}{{ a.replace('x', a) }}",
		"join":                "{{ ('x' * 1000000).join(range(100000) | map('string')) }}",
		"center":              "{{ 'x'.center(100000000000) }}",
		"zfill":               "{{ 'x'.zfill(100000000000) }}",
		"indent":              "{{ 'x' | indent(100000000000, true) }}",
		"batch":               "{{ [1] | batch(100000000, 0) | list }}",
		"percent":             "{{ '%999999999d' % 1 }}",
		"range":               "{{ range(100000000) }}",
		"power":               "{{ 10 ** 1000 }}",
		"json indent":         "{{ [[[[1]]]] | tojson(indent='x' * 100000000) }}",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			got, err := renderSource(src, NewDict())
			if err == nil {
				t.Errorf("rendered %d bytes", len(got))
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("error %v is no *Error", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestGenerationSpans(t *testing.T) {
	tm, err := Parse("{% for m in ms %}<{{ m }}>{% generation %}{{ m }}!{% endgeneration %}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	vars := NewDict()
	vars.Set("ms", FromGo([]string{"a", "é"}))
	text, spans, err := tm.Render(vars)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range spans {
		got = append(got, text[s.Start:s.End])
	}
	if strings.Join(got, " ") != "a! é!" {
		t.Errorf("spans of %q: %q", text, got)
	}
}

func TestClock(t *testing.T) {
	tm, err := Parse(`{{ strftime_now("%d %B %Y, %-d/%-m %H:%M:%S %j %a %%") }}`)
	if err != nil {
		t.Fatal(err)
	}
	tm.Now = func() time.Time { return time.Date(2024, 3, 5, 7, 8, 9, 0, time.UTC) }
	text, _, err := tm.Render(NewDict())
	if want := "05 March 2024, 5/3 07:08:09 065 Tue %"; err != nil || text != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
}

// Any text is either refused with an *Error or rendered; nothing panics or hangs.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{% for x in l %}{{ loop.index }}{{ x|upper }}{% endfor %}", "{{ d.a[1:]|tojson(indent=2) }}",
		"{% macro m(a, b=1) %}{{ a ~ b }}{% endmacro %}{{ m(*l) }}", "{%- set x, y = l -%}{{ '%s' % x }}", "{% raw %}{{{% endraw %}{# #}",
		"{{ s.split('l')|map('trim')|join(s[::-1]) }}{% generation %}{{ 1 // 0 }}{% endgeneration %}"} {
		f.Add(s)
	}
	vars := NewDict()
	vars.Set("l", FromGo([]any{"a", 1, nil, 2.5}))
	vars.Set("d", FromGo(map[string]any{"a": []any{"x", "y"}, "b": true}))
	vars.Set("s", "hello é")
	f.Fuzz(func(t *testing.T, src string) {
		tm, err := Parse(src)
		if err == nil {
			tm.Limits = Limits{Steps: 20_000, Bytes: 1 << 20, Depth: 100}
			_, _, err = tm.Render(vars)
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("error %v is no *Error", err)
		}
	})
}
