package token

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// Added tokens of every kind, each behaviour of Split, prepend schemes, unknown
// tokens, decoders and more, on random texts and random ids: what the tokenizers
// library gives. testdata/make.py wrote the file.
func TestPipelines(t *testing.T) {
	data, err := os.ReadFile("testdata/pipelines.json")
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]json.RawMessage
	var golden struct {
		Bases     map[string]object
		Pipelines []struct {
			Name, Base string
			Patch      object
			Cases      []struct {
				hfCase
				RandomIDs     []int32 `json:"random_ids"`
				RandomDecoded string  `json:"random_decoded"`
			}
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	merge := func(base, patch object) object {
		out := object{}
		for k, v := range base {
			out[k] = v
		}
		for k, v := range patch {
			out[k] = v
		}
		return out
	}
	read := func(v json.RawMessage) (o object) {
		if err := json.Unmarshal(v, &o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	write := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, p := range golden.Pipelines {
		t.Run(p.Name, func(t *testing.T) {
			base := golden.Bases[p.Base]
			file := merge(base, p.Patch)
			file["model"] = write(merge(read(base["model"]), read(p.Patch["model"])))
			tok, err := ReadJSON(write(file), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range p.Cases {
				checkHF(t, tok, []hfCase{c.hfCase})
				if got := tok.Decode(c.RandomIDs, false); got != c.RandomDecoded {
					t.Errorf("Decode(%v) = %q, want %q", c.RandomIDs, got, c.RandomDecoded)
				}
				var parts string
				s := tok.Stream(false)
				for _, id := range c.IDs {
					parts += s.Add(id)
				}
				if parts += s.Flush(); parts != c.Decoded {
					t.Errorf("stream of %q = %q, want %q", c.Text, parts, c.Decoded)
				}
				if again := tok.Encode(c.Text, true); !slices.Equal(again, c.IDs) {
					t.Errorf("Encode(%q) from the cache = %v, want %v", c.Text, again, c.IDs)
				}
			}
		})
	}
}
