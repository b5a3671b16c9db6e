"""What is on screen, measured: contrast as WCAG 2.2 defines it, texts over each other, pictures that show nothing."""
import base64

# measure(root) lists every text with its contrast (4.5 is asked for: SC 1.4.3) and every line, dot and bar of a chart (3: SC
# 1.4.11) of what is drawn below root. The grid, and shapes in the background's colour, lead the eye only: role="presentation".
MEASURE = r"""
const parse = s => { const m = s.match(/^(rgba?|color)\(([^)]*)\)/); if (!m) return null;
  let v = m[2].replace(/srgb/, '').split(/[\s,\/]+/).filter(Boolean).map(parseFloat);
  if (m[1] === 'color') v = [v[0] * 255, v[1] * 255, v[2] * 255, v[3]];
  return [v[0], v[1], v[2], v[3] ?? 1]; };
const over = (top, under) => { const a = top[3]; return [0, 1, 2].map(i => top[i] * a + under[i] * (1 - a)).concat(1); };
const lum = c => { const l = c.slice(0, 3).map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
const ratio = (a, b) => { const x = lum(a), y = lum(b); return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
const style = e => e.ownerDocument.defaultView.getComputedStyle(e);
const ground = e => { const layers = []; for (; e; e = e.parentElement) { const c = parse(style(e).backgroundColor); if (c && c[3] > 0) { layers.push(c); if (c[3] === 1) break; } }
  let at = [255, 255, 255, 1]; for (const c of layers.reverse()) at = over(c, at); return at; };
const shown = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0 && style(e).visibility !== 'hidden'; };
const veil = e => { let o = 1; for (; e; e = e.parentElement) o *= parseFloat(style(e).opacity); return o; };
const faded = (css, alpha, e) => { const c = parse(css); return c && [c[0], c[1], c[2], c[3] * parseFloat(alpha) * veil(e)]; };
const measure = (root, page) => {
  const found = [];
  const note = (kind, what, c, back) => { if (c && c[3] > 0) found.push({kind, what, ratio: ratio(over(c, back), back)}); };
  const walk = root.ownerDocument.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest('style,title,script,button') || !shown(e)) continue;
    const svg = e.closest('svg');
    note('text', n.data.trim().slice(0, 40), svg ? faded(style(e).fill, style(e).fillOpacity, e) : faded(style(e).color, 1, e), page ?? ground(e));
  }
  for (const svg of root.matches('svg') ? [root] : root.querySelectorAll('svg[role=img]'))
    for (const e of svg.querySelectorAll('path,polyline,circle,rect,line')) {
      if (e.matches('[role=presentation]')) continue;
      const s = style(e), back = page ?? ground(svg);
      note('line', e.tagName + ' ' + (e.getAttribute('class') ?? ''), faded(s.stroke, s.strokeOpacity, e), back);
      if (e.matches('circle,rect')) note('line', e.tagName + ' ' + (e.getAttribute('class') ?? ''), faded(s.fill, s.fillOpacity, e), back);
    }
  for (const e of root.querySelectorAll('*')) if (parseFloat(style(e).borderLeftWidth) > 2 && !e.closest('button')) note('line', 'border', faded(style(e).borderLeftColor, 1, e), ground(e.parentElement));
  return found;
};
"""

# A picture is a document of its own: it is opened in a frame. Which colours an <img> really takes, pixels() tells.
PICTURE = r"""
const picture = async img => {
  const source = new TextDecoder().decode(Uint8Array.from(atob(img.src.split('base64,')[1]), c => c.charCodeAt(0)));
  const frame = document.createElement('iframe');
  frame.style.cssText = 'width:700px;height:600px;border:0';
  frame.srcdoc = '<body style="margin:0">' + source + '</body>';
  img.parentElement.append(frame);
  await new Promise(done => frame.onload = done);
  const svg = frame.contentDocument.querySelector('svg');
  const page = parse(style(svg.querySelector('rect')).fill);
  const out = {found: measure(svg, page), texts: texts(svg), dark: lum(page) < 0.2};
  frame.remove();
  return out;
};
"""

# texts(svg) lists pairs of texts that lie over each other, and texts that leave the chart.
TEXTS = r"""
const texts = svg => {
  const bad = [], all = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]), frame = svg.getBoundingClientRect();
  const small = r => ({left: r.left + 0.5, right: r.right - 0.5, top: r.top + 1.5, bottom: r.bottom - 1.5});
  all.forEach(([name, r], i) => {
    if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1) bad.push(name + ' leaves the chart');
    for (const [other, q] of all.slice(i + 1)) { const a = small(r), b = small(q);
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) bad.push(name + ' over ' + other); }
  });
  return bad;
};
"""

LOOK = MEASURE + TEXTS + PICTURE + r"""
const out = {found: [], texts: [], pictures: 0, blind: 0, dark: [], wide: []};
for (const root of document.querySelectorAll(arg)) {
  out.found.push(...measure(root));
  if (root.scrollWidth > root.clientWidth + 1) out.wide.push(root.innerText.slice(0, 60));
  for (const svg of root.querySelectorAll('svg[role=img]')) out.texts.push(...texts(svg));
  for (const img of root.querySelectorAll('img')) {
    out.pictures++;
    if (!img.complete || !img.naturalWidth || !img.alt) { out.blind++; continue; }
    const p = await picture(img);
    out.found.push(...p.found); out.texts.push(...p.texts); out.dark.push(p.dark);
  }
}
return out;"""

LEAST = {"text": 4.5, "line": 3.0}


class Look:
    """Measurements of all that matches a selector."""

    def __init__(self, page, selector, dark=False):
        """dark: measure pictures in their dark colours."""
        page.emulate_media(color_scheme="dark" if dark else "light")
        got = page.evaluate(f"async (arg) => {{ {LOOK} }}", selector)
        page.emulate_media(color_scheme="light")
        self.texts = [f for f in got["found"] if f["kind"] == "text"]
        self.lines = [f for f in got["found"] if f["kind"] == "line"]
        self.clashes, self.pictures, self.blind, self.dark, self.wide = got["texts"], got["pictures"], got["blind"], got["dark"], got["wide"]

    def worst(self, kind):
        found = self.texts if kind == "text" else self.lines
        return min(found, key=lambda f: f["ratio"], default=None)

    def said(self, kind):
        w = self.worst(kind)
        return f"{len(self.texts if kind == 'text' else self.lines)} measured, the least {w['ratio']:.2f} ({w['what']!r}), wanted {LEAST[kind]}" if w else "none found"

    def passes(self, kind):
        w = self.worst(kind)
        return w is not None and w["ratio"] >= LEAST[kind]


# What measure() has to find, by hand: #767676 on white has 4.54, half black over white 3.98, half white over black 5.28, and a line of #888 3.54.
KNOWN = """<div class="known" style="background:#fff;font:16px sans-serif"><p style="color:#767676">plain</p><p style="opacity:.5;color:#000">veil</p>
<p style="background:#000;color:rgba(255,255,255,.5)">alpha</p><p style="background:rgba(0,0,0,.5)"><span style="color:#fff">layer</span></p>
<svg role="img" width="200" height="60"><text x="5" y="20">one</text><text x="15" y="22">two</text><text x="190" y="50">outside</text>
<path d="M0 40H90" stroke="#888" fill="none"/><path role="presentation" d="M0 50H90" stroke="#eee"/></svg></div>"""


def measures_right(page):
    """Whether known contrasts, clashes of texts and pixels are measured as they are; and what was found."""
    page.set_content(KNOWN)
    look = Look(page, ".known")
    found = {f["what"]: round(f["ratio"], 2) for f in look.texts + look.lines}
    dots = pixels(page, page.locator("p").nth(2))
    want = {"plain": 4.54, "veil": 3.98, "alpha": 5.28, "layer": 3.98, "path": 3.54, "one": 21, "two": 21, "outside": 21}
    return ({k.strip(): v for k, v in found.items()} == want and look.clashes == ["one over two", "outside leaves the chart"]
            and dots["ground"] == [0, 0, 0] and abs(dots["most"] - 5.28) < 0.6), [found, look.clashes, dots]


# The colours of a picture's pixels as it was drawn: the most frequent one, and the highest contrast with it.
PIXELS = MEASURE + r"""
const img = new Image(); img.src = 'data:image/png;base64,' + arg; await img.decode();
const c = document.createElement('canvas'); c.width = img.width; c.height = img.height;
const g = c.getContext('2d'); g.drawImage(img, 0, 0);
const d = g.getImageData(0, 0, c.width, c.height).data, count = new Map();
for (let i = 0; i < d.length; i += 4) { const k = d[i] << 16 | d[i + 1] << 8 | d[i + 2]; count.set(k, (count.get(k) ?? 0) + 1); }
const rgb = k => [k >> 16, k >> 8 & 255, k & 255, 1];
const back = [...count.entries()].sort((a, b) => b[1] - a[1])[0][0];
return {ground: rgb(back).slice(0, 3), most: Math.max(...[...count.keys()].map(k => ratio(rgb(k), rgb(back)))), colors: count.size};"""


def pixels(page, locator):
    png = base64.b64encode(locator.screenshot()).decode()
    return page.evaluate(f"async (arg) => {{ {PIXELS} }}", png)
