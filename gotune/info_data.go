package gotune

import "fmt"

// DatasetInfo is what [Dataset.Load] found.
type DatasetInfo struct {
	_ struct{}

	Dataset Dataset  // with its defaults filled in
	Path    string   // the folder or file it was read from
	Commit  string   // of the Hub repository, if it came from there
	Rows    int      // in the split, after its slice
	Bytes   int64    // of the files
	Columns []Column // in the file's order
	Seconds float64  // the load took
}

// A Column is one column of a data set.
type Column struct {
	_ struct{}

	Name string
	Type string // e.g. "string", "int64", "float64", "list"
}

// Rows are some rows of a data set.
type Rows struct {
	_ struct{}

	Dataset string   // its name
	Columns []string // in the file's order
	Offset  int      // of the first row here
	Total   int      // rows in the data set
	Values  [][]any  // [row][column]: string, float64, bool, nil, []any, map[string]any
}

// Text returns row i's value of a column as text, "" if there is none.
func (r Rows) Text(i int, column string) string {
	if i < 0 || i >= len(r.Values) {
		return ""
	}
	for j, c := range r.Columns {
		if c == column && j < len(r.Values[i]) && r.Values[i][j] != nil {
			if s, ok := r.Values[i][j].(string); ok {
				return s
			}
			return fmt.Sprint(r.Values[i][j])
		}
	}
	return ""
}

// Lengths are the numbers of tokens of a data set's rows, in the tokens of a
// model and as they would be trained on, but not cut to a maximum.
type Lengths struct {
	_ struct{}

	Dataset string // its name
	Model   string // whose tokenizer counted
	Counts  []int  // tokens of each row, in the rows' order
	Tokens  int64  // their sum
	Min     int    // the shortest row
	Max     int    // the longest row
	Mean    float64
	Median  int
	P90     int // nine of ten rows have at most this many tokens
	P99     int // ninety-nine of a hundred
}

// ModelInfo is what [Model.Load] loaded, and how it is held.
type ModelInfo struct {
	_ struct{}

	Model            Model         // with its defaults filled in
	Path             string        // the folder it was read from
	Commit           string        // of the Hub repository, if it came from there
	Architecture     string        // e.g. "LlamaForCausalLM"
	Layers           int           // decoder layers
	HiddenSize       int           // width of the residual stream
	IntermediateSize int           // width of the MLP
	Heads            int           // query heads
	KVHeads          int           // key and value heads
	HeadDim          int           // width of a head
	VocabSize        int           // rows of the embedding
	MaxPositions     int           // longest sequence it was made for
	Params           int64         // all weights
	Tensors          []TensorInfo  // one line for each sort of tensor
	DiskBytes        int64         // of the weights in their files
	DeviceBytes      int64         // as held
	HostPeakBytes    int64         // most host memory while loading
	Backend          string        // where it is held, e.g. "xla:cpu"
	ComputeDType     string        // of the matrix products
	Tokenizer        TokenizerInfo // read with it
	Seconds          float64       // the load took
	Attached         bool          // it was loaded before
}

// TensorInfo is one sort of tensor of a model, e.g. all layers' q_proj.
type TensorInfo struct {
	_ struct{}

	Name   string // with "*" for the layer's number, e.g. "model.layers.*.self_attn.q_proj.weight"
	Count  int    // how many there are
	Shape  []int  // of each
	DType  string // in the file, e.g. "F16"
	HeldAs string // on the device, e.g. "nf4/64", "float32"
	Params int64  // of all of them
	Bytes  int64  // of all of them, as held
}

// TokenizerInfo says what a model's tokenizer does.
type TokenizerInfo struct {
	_ struct{}

	Kind        string // e.g. "sentencepiece BPE", "byte-level BPE"
	VocabSize   int
	BOS         string // the token that begins a text, e.g. "<s>"
	EOS         string // the token that ends it
	Pad         string // the token that fills batches up
	PaddingSide string // "right"
}
