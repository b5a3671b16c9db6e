"""Writes jinja2.json: what transformers' chat template environment gives for small templates.

Needs transformers and jinja2 (5.23.0 and 3.1.6 were used): python make.py
"""
import json
import os

from transformers.utils.chat_template_utils import _cached_compile_jinja_template as compile_template

VARS = {
    "s": "Hello, wörld 😀", "e": "", "n": None, "t": True, "f": False, "i": 7, "neg": -7, "x": 2.5, "big": 1e16,
    "l": [3, 1, 2], "names": ["bob", "Al", "cy"], "d": {"b": 1, "a": [1, "two", None], "items": "mine"},
    "ms": [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo\n"}, {"role": "user", "content": "bye"}],
    "html": "<a href='x'>\"&</a>", "lines": "a\nb\r\nc\n\nd",
}

EXPRESSIONS = r"""
s|s.upper()|s.lower()|s.title()|s|length|s[0]|s[-1]|s[7:12]|s[::-1]|s[::2]|s[20]|s.split()|s.split(", ")|s.split("l", 1)|s.rsplit("l", 1)
s.startswith("He")|s.endswith(("x", "😀"))|s.find("w")|s.rfind("l")|s.find("zz")|s.index("ö")|s.count("l")|s.replace("l", "L", 1)|s.replace("l", "")
s.partition(", ")|s.rpartition("zz")|s.strip("H😀")|" \t\n\x1c x\u00a0".strip()|"abc".center(9, "*")|"abc".ljust(5) ~ "|"|"-42".zfill(6)|"{} and {}".format(1, "b")
"{0}{1!r}{0}".format("a", "b")|"%s is %d and %.2f" % ("a", 3, 2.5)|"%5s|%-5s|%05d" % ("a", "b", 42)|"a,b,,c".split(",")|"".split()|"".split(",")|lines.splitlines()|lines.splitlines(true)
"abc".isalpha()|"ab1".isalnum()|"12".isdigit()|"²".isdigit()|"½".isnumeric()|"½".isdigit()|" \n".isspace()|"".isspace()|"AB1".isupper()|"ab1".islower()|"1".islower()|"straße".upper()|"straße".capitalize()
"they're bill's".title()|"they're bill's-one (two)"|title|"hELLO"|capitalize|"aBc".swapcase()|"xyz".removeprefix("x")|"xyz".removesuffix("z")|", ".join(names)|names|join(", ")|l|join|d|join("-")
n|none|t|f|x|big|1e15|1e-5|0.0001|1.0|-0.0|1/3|2**0.5|10/2|7//2|-7//2|7%3|-7%3|7.5//2|-7.5%2|2**10|2**-1|1_000|0x1F|0b11|0o17|1e3|.5 is defined
i + x|i * 2|"ab" * 3|[1] * 2|[1] + [2]|(1,) + (2,)|"a" ~ 1 ~ none ~ true|1 ~ 2.0|true + 1|true == 1|1 == 1.0|"1" == 1|none == false|[1] == [1.0]|(1,2) == [1,2]|1 < 2 < 3|1 < 3 < 2|"a" < "b"|[1,2] < [1,3]
1 in l|5 not in l|"ell" in s|"b" in d|none in [none]|not f|not not e|e or "default"|s and i|n or 0 or "z"|i if t else x|i if f|(i if f) is undefined|1 if f else 2 if f else 3
undefined_name|undefined_name is defined|undefined_name|default("d")|e|default("d")|e|default("d", true)|n|default("d")|n|default("d", true)|d.zzz is defined|d.zzz.yyy is defined|d["zzz"]|undefined_name ~ "x"|undefined_name == undefined_other
undefined_name + 1|undefined_name.x|undefined_name()|undefined_name|length|[undefined_name]|d.b|d["b"]|d.items|d.items()|d.keys()|d.values()|d.get("b")|d.get("q")|d.get("q", 5)|d.a[1]|d.a.1|d|length|d["items"]
l.append(4)|d.update({"a": 1})|d.pop("a")|l[5]|l[-4]|l["x"]|l[1:]|l[:-1]|l[::-1]|l[5:]|l[1:100:2]|l[-100:2]|s[::0]|i[0]|n.x|n["x"]|i.foo|i()|s + 1|1 + s|l + s|-s|1 / 0|1 % 0|1.5 // 0
l|sort|l|sort(reverse=true)|names|sort|names|sort(case_sensitive=true)|ms|sort(attribute="content")|map(attribute="content")|list|l|reverse|list|s|reverse|l|first|l|last|[]|first|l|min|l|max|l|sum|[]|sum|names|max|[1,1,2,"A","a"]|unique|list
ms|map(attribute="role")|list|ms|map(attribute="role")|unique|list|ms|selectattr("role", "equalto", "user")|list|length|ms|rejectattr("role", "eq", "user")|map(attribute="content")|join("+")|ms|selectattr("zzz")|list|l|select("odd")|list|l|reject("gt", 1)|list|names|map("upper")|list|names|map("replace", "b", "B")|join
l|map("string")|list|"3.7"|int|"x"|int|"x"|int(9)|"0x1f"|int(0, 16)|3.9|int|none|int|"2.5"|float|"x"|float|true|int|-3|abs|2.5|round|3.5|round|2.567|round(2)|2.1|round(0, "ceil")|2.9|round(method="floor")|7|round
d|tojson|d|tojson(indent=2)|ms|tojson|s|tojson|html|tojson|"\u0001\t\\/\u007f\u2028"|tojson|[1, 2.0, 1e20, none, true, "é"]|tojson|[1,{"a":2}]|tojson(separators=(",", ":"))|{"b":1,"a":2}|tojson(sort_keys=true)|"é😀"|tojson(ensure_ascii=true)|{}|tojson(indent=4)|[[]]|tojson(indent=1)|(1,2)|tojson|undefined_name|tojson
d|dictsort|d|items|list|{"B":2,"a":1}|dictsort|{"B":2,"a":1}|dictsort(true)|{"B":2,"a":1}|dictsort(by="value", reverse=true)|lines|indent|lines|indent(2, true)|lines|indent(2, blank=true)|lines|indent("> ")|html|escape|html|e|html|safe|s|wordcount|" x "|trim|"xxaxx"|trim("x")|l|batch(2)|list|l|batch(2, 0)|list
[1,2]|string|none|string|1.50|string|"%s-%s"|format("a", 1)|s|upper|s|lower|"a b"|replace(" ", "_")|"aaa"|replace("a", "b", 2)|s|list|first|s|first|s|last|{"a":1}|list|(1,2,3)|last|d|attr("keys") is callable|l|length|n|length|s|center(30)|"a-b"|title
i is odd|i is even|i is divisibleby 7|i is divisibleby(2)|s is string|i is number|true is number|t is boolean|i is integer|true is integer|x is float|d is mapping|l is sequence|s is sequence|d is iterable|i is iterable|n is none|n is not none|s is defined|t is true|1 is true|f is false|range is callable|"A" is upper|"a" is lower|i is in l|i is eq 7|i is ne(7)|i is gt 3|i is sameas 7|"upper" is filter|"odd" is test|s is escaped
range(3)|list|range(1, 7, 2)|list|range(3, 0, -1)|list|range(100001)|range(1,2,0)|dict(a=1, b=2)|dict({"x": 1}, y=2)|dict([("k", "v")])|namespace(a=1).a|namespace(_a=1)|{1: "a", "b": 2}[1]|{"a": 1, "a": 2}|{true: 1}[1]|(1,)|()|(1, 2)[0]|[1, [2, {"k": (3,)}]]|"it's"|["it's"]|["say \"hi\""]|["both ' and \""]|["\n\t\\\x00\u200b\ue000é😀"]|"\u00e9\x41\101\q"
[1, none, true, 1.5, "a"]|["a" "b"]|"a" "b"|raise_exception("no " ~ i)|raise_exception()|loop|self|s|zzz|s is zzz|1 +|{{|(1|[1, 2|d.|"abc|1 2|l[|x y|{"a" 1}|a.b.c|"a" in 1|1 in "a"|l < 1|n < 1|[n] < [1]|{} < {}|hash|lipsum|l.__class__|s.format.__globals__|[[1]]|unique|list|{[1]: 2}|l.index(1)|l.index(9)|l.count(1)|(1,2).count(1)
"a\
b"|s|default|"😀é"|length|"😀é"[1:]|"e\u0301"|length|1 if undefined_name else 2|"yes" if "x" in undefined_name else "no"|(undefined_name or l)|length|not undefined_name|2 * 3 + 4 * 5 - 6 / 3|2 + 3 ~ 4|-2 ** 2|2 ** 3 ** 2|-1|abs|1 + 1|string|(1 + 1)|string|"a" == "a" and "b" != "c"|not 1 == 2|1 == 1 == 1
"""

BLOCKS = [
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "{%- if t -%}\n x \n{%- endif -%}\n y", "  {%+ if t %}x{% endif +%}\nz", "a {#- comment -#} b", "a\n  {# c #}\nb",
    "x {{- ' y ' -}} z", "{{ 1 }}\n\n", "a\r\nb\rc", "{% raw %}{{ x }}{% endraw %}", "  {% raw -%}  {% if %} {%- endraw %}\nx", "{% for x in l %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}:{{ x }} {% else %}no{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{{ k }}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}", "{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% set a = 1 %}{% for x in l %}{% set a = a + x %}{{ a }} {% endfor %}{{ a }}", "{% set ns = namespace(c=0) %}{% for x in l %}{% set ns.c = ns.c + x %}{% endfor %}{{ ns.c }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set a, b = [1, 2, 3] %}", "{% set a %}x{{ i }}{% endset %}[{{ a }}]", "{% set a | upper | trim %} x{{ i }} {% endset %}[{{ a }}]", "{% set d.b = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=5) }} {{ m(b=3) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, x=2) }}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(3) %}{{ y }}!{% endcall %}", "{% macro m() %}{{ m.name }}{{ zz }}{% endmacro %}{% set zz = 5 %}{{ m() }}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% generation %}x{% set q = 1 %}{% endgeneration %}{{ q }}", "{% if f %}a{% elif t %}b{% else %}c{% endif %}", "{% if f %}a{% elif n %}b{% else %}c{% endif %}",
    "{% for m in ms[1:] %}{{ m.role }}:{{ m['content'] | trim }}|{% endfor %}", "{% for i in range(3) %}{{ i }}{% endfor %}{{ i }}", "{% for x in 5 %}{% endfor %}", "{% for x in n %}{% endfor %}", "{% for c in 'h😀' %}[{{ c }}]{% endfor %}", "{% for x in undefined_name %}a{% else %}b{% endfor %}",
    "{% if %}", "{% for x %}{% endfor %}", "{% foo %}", "{% endif %}", "{% if t %}", "{% for x in l %}{% endif %}", "{{ 1", "{% set %}", "{% set true = 1 %}", "{% break %}", "{# open", "{% raw %}", "{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}", "{{ }}", "{% %}", "{ { } } %} }} #}",
    "{% if loop is defined %}a{% endif %}", "{% for x in l %}{% set loop_x = loop %}{% endfor %}{{ loop_x }}", "{% if x %}{% set y = 1 %}{% endif %}{{ y }}", "{%if t%}a{%else%}b{%endif%}", "{{'a'}}{{\"b\"}}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{%- for m in ms %}\n  {%- if m.role == 'user' %}\n    {{- '<' + m.content + '>' }}\n  {%- endif %}\n{%- endfor %}\n", "   {% set x = 1 %}   \n   {{ x }}   \n", "\n\n{% if t %}\n\n{% endif %}\n\n", "{{ '\n' }}\n", "\u3000{% if t %}x{% endif %}",
    "{% for x in l -%}\n {{ x }}\n{%- endfor %}", "{% for x in l %}\n{{ x }}\n{% endfor %}\n", "{{ l | map('foo') | list }}", "{{ l | select('foo') | list }}", "{% macro f(x) %}{% endmacro %}{{ f }}", "{{ 'a' if t }}{{ 'b' if f }}", "{% set x = 'a' if f %}{{ x }}",
]


# Not compared: lazy values and views, which are lists here, print their address or kind in Python; Python's own
# compiler, not Jinja2, refuses a break outside of a loop; constants are folded before filters are looked up.
SKIP_TEXT = (" at 0x", "dict_items(", "dict_keys(", "dict_values(", "range(", "<TemplateReference")
SKIP = {"{% break %}", "{{ [[1]]|unique }}", "{{ {[1]: 2}|l.index(1) }}", "{{ {[1]: 2}|l.index(1)|l.index(9) }}"}


def expressions():
    """The lines above hold expressions joined by "|": filters make that ambiguous, so each prefix counts."""
    for line in EXPRESSIONS.strip("\n").replace("\\\nb", "\\\0b").split("\n"):
        parts = line.replace("\\\0b", "\\\nb").split("|")
        for size in (1, 2, 3):
            for k in range(len(parts) - size + 1):
                yield "|".join(parts[k:k + size])


def main():
    out, seen = [], set()
    for src in [f"{{{{ {e} }}}}" for e in expressions()] + BLOCKS:
        if src in seen or src in SKIP:
            continue
        seen.add(src)
        try:
            text = compile_template(src).render(**VARS)
            if not any(s in text for s in SKIP_TEXT):
                out.append({"src": src, "text": text})
        except Exception as e:  # the error is the result
            out.append({"src": src, "error": type(e).__name__, "message": str(e)})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jinja2.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"vars": VARS, "cases": out}, f, ensure_ascii=False, indent=0)
        f.write("\n")


if __name__ == "__main__":
    main()
