package gotune

// Generation is the text that a model wrote.
type Generation struct {
	_ struct{}

	Prompt          string   // as given
	Rendered        string   // as the model saw it
	Text            string   // what it wrote, without special tokens
	Stop            string   // "eos", "length" or "interrupted"
	PromptTokens    int      // in Rendered, BOS included
	Tokens          int      // generated, EOS included
	Seconds         float64  // without loading
	TokensPerSecond float64  // of the generated ones
	Base            bool     // the adapter was off
	Sampling        Sampling // with its defaults filled in
}

// FileInfo is a file that was written or sent.
type FileInfo struct {
	_ struct{}

	Name  string // relative to the folder
	Bytes int64
	How   string // of a push: "regular", "lfs", "unchanged"
}

// SaveInfo is what [Trainer.Save] wrote.
type SaveInfo struct {
	_ struct{}

	Dir    string // absolute
	Step   int    // of the run
	Params int64  // of the adapter
	Files  []FileInfo
	Bytes  int64 // of all of them
}

// MergeInfo is what [Trainer.Merge] wrote.
type MergeInfo struct {
	_ struct{}

	Dir           string // absolute
	DType         string // of the weights
	Tensors       int    // written
	Merged        int    // of them changed by the adapter
	Files         []FileInfo
	Bytes         int64   // of all of them
	HostPeakBytes int64   // most host memory while merging
	FreedBytes    int64   // device memory given back before
	Seconds       float64 // it took
}

// PushInfo is what [Push] sent, or would send in a dry run.
type PushInfo struct {
	_ struct{}

	Repo     string // "owner/name"
	URL      string // where to look at it
	Revision string // the branch
	Commit   string // "" in a dry run
	Created  bool   // the repository is new
	DryRun   bool
	Files    []FileInfo
	Bytes    int64   // sent, or to be sent
	Seconds  float64 // it took
}
