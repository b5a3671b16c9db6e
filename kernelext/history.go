package kernelext

import (
	"path"
	"slices"
)

// history is the cells of this kernel's life. The protocol's session number is always 1.
type history []historyEntry

type historyEntry struct {
	line   int
	source string
}

func (h *history) add(line int, source string) { *h = append(*h, historyEntry{line, source}) }

// historyQuery is the content of a history_request.
type historyQuery struct {
	Access  string `json:"hist_access_type"` // "range", "tail" or "search"
	Output  bool   `json:"output"`
	Session int    `json:"session"` // range: 1, or 0 and below for the current one
	Start   int    `json:"start"`
	Stop    *int   `json:"stop"` // range: the line after the last
	N       int    `json:"n"`    // tail, search: at most the last n, 0 for all
	Pattern string `json:"pattern"`
	Unique  bool   `json:"unique"`
}

// find lists the entries asked for, oldest first.
func (h history) find(q historyQuery) []historyEntry {
	var out []historyEntry
	for _, e := range h {
		switch q.Access {
		case "range":
			if q.Session > 1 || e.line < q.Start || q.Stop != nil && e.line >= *q.Stop {
				continue
			}
		case "search":
			if q.Pattern != "" && !globMatch(q.Pattern, e.source) {
				continue
			}
		}
		if q.Unique {
			out = slices.DeleteFunc(out, func(o historyEntry) bool { return o.source == e.source })
		}
		out = append(out, e)
	}
	if q.Access != "range" && q.N > 0 && len(out) > q.N {
		out = out[len(out)-q.N:]
	}
	return out
}

// globMatch matches the whole of s, in which * also stands for slashes.
func globMatch(pattern, s string) bool {
	flat := func(s string) string {
		b := []rune(s)
		for i, r := range b {
			if r == '/' {
				b[i] = '\x01'
			}
		}
		return string(b)
	}
	ok, err := path.Match(flat(pattern), flat(s))
	return ok && err == nil
}

func (k *kernel) onHistory(r *request) {
	var q historyQuery
	if r.decode(&q) != nil {
		k.badRequest(r, "a field has the wrong type")
		return
	}
	k.mu.Lock()
	found := k.history.find(q)
	k.mu.Unlock()
	entries := [][3]any{}
	for _, e := range found {
		if q.Output {
			entries = append(entries, [3]any{1, e.line, [2]any{e.source, nil}}) // outputs are not kept
		} else {
			entries = append(entries, [3]any{1, e.line, e.source})
		}
	}
	k.reply(r, object{"status": "ok", "history": entries})
}
