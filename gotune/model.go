package gotune

// A Model names a language model of the Llama family and how its frozen
// weights are held. It is a literal: [Model.Load], [Model.Generate] and
// [Model.Unload] do the work, and a [Trainer] loads its model by itself.
//
//	var base = gotune.Model{Name: "base", Source: "NousResearch/Llama-2-7b-chat-hf"}
type Model struct {
	_ struct{}

	// Name is the model's identity, as for [Dataset]. Default: the last part of
	// Source.
	Name string

	// Source says where the weights are: "embedded" (a small Llama that writes
	// about Go, held in the gotune binary), a Hub id "owner/name", or a folder in
	// the Hugging Face layout (config.json, *.safetensors, tokenizer files).
	Source string

	// Revision is a branch, tag or commit of the Hub repository. Default "main".
	// Must be empty for other sources.
	Revision string

	// Quant says how the linear layers are held. The zero value is 4-bit NF4.
	Quant Quantization

	// Device is where the model lives: "auto" (the default: the first that
	// works of the others), "xla:cuda", "xla:cpu", or "go".
	Device string
}

// Quantization says how the weights of the linear layers are held; the
// embeddings, norms and the output layer stay as they are. See Dettmers et al.,
// "QLoRA" (arXiv:2305.14314), section 3. The layout is that of bitsandbytes.
type Quantization struct {
	_ struct{}

	// Type is "nf4" (the default), "fp4", or "none" for 16 or 32 bits a weight.
	Type string

	// ComputeDType is the type of the matrix products: "auto" (the default:
	// bfloat16 where the device has it, else float16 on a GPU and float32 on a
	// CPU), "float16", "bfloat16", "float32".
	ComputeDType string

	// DoubleQuant holds the blocks' scales in 8 bits too: 0.37 bits a weight
	// less, for a little time.
	DoubleQuant bool

	// BlockSize is the number of weights that share a scale. Default 64; 128 and
	// 256 are the others.
	BlockSize int
}

// Devices and ComputeDTypes are the names that Model.Device and
// Quantization.ComputeDType may have.
var (
	devices       = []string{"auto", "xla:cuda", "xla:cpu", "go"}
	computeDTypes = []string{"auto", "float16", "bfloat16", "float32"}
)

// Bare says whether the literal has nothing but a Name, and so stands for what
// an earlier cell loaded.
func (m Model) Bare() bool { return m == Model{Name: m.Name} }

// Resolved returns m with its defaults filled in. The error names the first
// field that can't be right, what it holds and what it should hold. A bare
// literal comes back unchanged.
func (m Model) Resolved() (Model, error) {
	c := checker{where: "Model"}
	if m.Bare() {
		c.name("Name", m.Name)
		return m, c.result()
	}
	defaulted(&m.Name, lastPart(m.Source))
	defaulted(&m.Device, "auto")
	c.name("Name", m.Name)
	c.source(m.Source, m.Revision, "embedded")
	if hubID(m.Source) {
		defaulted(&m.Revision, "main")
	}
	c.oneOf("Device", m.Device, devices...)
	q, err := m.Quant.Resolved()
	c.merge(err)
	m.Quant = q
	return m, c.result()
}

// Resolved returns q with its defaults filled in, or what is wrong with it.
func (q Quantization) Resolved() (Quantization, error) {
	c := checker{where: "Quant"}
	defaulted(&q.Type, "nf4")
	defaulted(&q.ComputeDType, "auto")
	c.oneOf("Type", q.Type, "nf4", "fp4", "none")
	c.oneOf("ComputeDType", q.ComputeDType, computeDTypes...)
	if q.Type == "none" {
		if q.DoubleQuant {
			c.fail("DoubleQuant", true, `false, since Type is "none"`, "remove DoubleQuant, or choose nf4 or fp4")
		}
		if q.BlockSize != 0 {
			c.fail("BlockSize", q.BlockSize, `0, since Type is "none"`, "remove BlockSize, or choose nf4 or fp4")
		}
		return q, c.result()
	}
	defaulted(&q.BlockSize, 64)
	if q.BlockSize != 64 && q.BlockSize != 128 && q.BlockSize != 256 {
		c.fail("BlockSize", q.BlockSize, "64, 128 or 256", "")
	}
	return q, c.result()
}
