package batch

import (
	"reflect"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

type packed struct {
	IDs     [][]int32 `json:"input_ids"`
	Labels  [][]int32 `json:"labels"`
	Lengths [][]int   `json:"seq_lengths"`
}

// TestPackingOracle holds every strategy against trl.pack_dataset and the old
// ConstantLengthDataset rule: rows, their order, labels and pieces.
func TestPackingOracle(t *testing.T) {
	var golden struct {
		Cases []struct {
			Length   int       `json:"seq_length"`
			IDs      [][]int32 `json:"input_ids"`
			Labels   [][]int32 `json:"labels"`
			Wrapped  packed    `json:"wrapped"`
			BFD      packed    `json:"bfd"`
			BFDSplit packed    `json:"bfd_split"`
			Constant [][]int32 `json:"constant_length_dataset_eos2"`
		} `json:"cases"`
	}
	oracle.JSON(t, &golden, "dataset", "packing.json")
	if len(golden.Cases) == 0 {
		t.Fatal("packing.json holds no cases")
	}
	for i, c := range golden.Cases {
		var examples []Example
		for j := range c.IDs {
			examples = append(examples, Example{IDs: c.IDs[j], Labels: c.Labels[j]})
		}
		for _, s := range []struct {
			strategy Packing
			want     packed
		}{{Wrapped, c.Wrapped}, {BFD, c.BFD}, {BFDSplit, c.BFDSplit}, {ConstantLength, packed{IDs: c.Constant}}} {
			rows, dropped, err := Pack(examples, PackOptions{Strategy: s.strategy, Length: c.Length, EOS: 2})
			if err != nil {
				t.Fatalf("case %d %s: %v", i, s.strategy, err)
			}
			var got packed
			in, out := 0, 0
			for _, r := range rows {
				got.IDs = append(got.IDs, r.IDs)
				got.Labels = append(got.Labels, r.Labels)
				got.Lengths = append(got.Lengths, r.Pieces)
				out += len(r.IDs)
			}
			for _, ids := range c.IDs {
				in += len(ids)
				if s.strategy == ConstantLength {
					in++
				}
			}
			if dropped != in-out {
				t.Errorf("case %d %s: %d tokens dropped, counted %d", i, s.strategy, dropped, in-out)
			}
			if !reflect.DeepEqual(got.IDs, s.want.IDs) {
				t.Errorf("case %d %s: rows\n%v\nwant\n%v", i, s.strategy, got.IDs, s.want.IDs)
			}
			if s.want.Labels != nil && !reflect.DeepEqual(got.Labels, s.want.Labels) {
				t.Errorf("case %d %s: labels\n%v\nwant\n%v", i, s.strategy, got.Labels, s.want.Labels)
			}
			if s.want.Lengths != nil && !reflect.DeepEqual(got.Lengths, s.want.Lengths) {
				t.Errorf("case %d %s: pieces\n%v\nwant\n%v", i, s.strategy, got.Lengths, s.want.Lengths)
			}
		}
	}
}

// TestLengthGroupedOracle holds the order against transformers' worked example.
func TestLengthGroupedOracle(t *testing.T) {
	var golden struct {
		Lengths []int `json:"lengths"`
		Batch   int   `json:"batch_size"`
		Perm    []int `json:"perm"`
		Indices []int `json:"indices"`
	}
	oracle.JSON(t, &golden, "optim", "length_grouped.json")
	if len(golden.Indices) == 0 {
		t.Fatal("length_grouped.json holds no indices")
	}
	before := slices.Clone(golden.Perm)
	got, err := LengthGrouped(golden.Lengths, golden.Batch, golden.Perm)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, golden.Indices) {
		t.Errorf("order\n%v\nwant\n%v", got, golden.Indices)
	}
	if !slices.Equal(golden.Perm, before) {
		t.Error("LengthGrouped changed the permutation it was given")
	}
}
