package gotune

import "strings"

// MergeOptions says how [Trainer.Merge] writes the model.
type MergeOptions struct {
	_ struct{}

	// DType is the type of the written weights: "float16" (the default),
	// "bfloat16", "float32".
	DType string

	// MaxShardBytes is the size a weight file may have before another one is
	// begun. Default 5e9.
	MaxShardBytes int64
}

// Resolved returns o with its defaults filled in, or what is wrong with it.
func (o MergeOptions) Resolved() (MergeOptions, error) {
	c := checker{where: "MergeOptions"}
	defaulted(&o.DType, "float16")
	defaulted(&o.MaxShardBytes, 5e9)
	c.oneOf("DType", o.DType, "float16", "bfloat16", "float32")
	if o.MaxShardBytes < 1<<10 {
		c.fail("MaxShardBytes", o.MaxShardBytes, "at least 1024", "")
	}
	return o, c.result()
}

// PushOptions says how [Trainer.Push] and [Push] send a folder to the Hub. The
// token is $HF_TOKEN, or what `huggingface-cli login` stored.
type PushOptions struct {
	_ struct{}

	// Private makes a new repository private. One that exists stays as it is.
	Private bool

	// DryRun shows what would be sent, and sends nothing.
	DryRun bool

	// Message is the commit's title. Default "Upload model with gotune".
	Message string

	// Revision is the branch to commit to. Default "main".
	Revision string

	// Endpoint is the Hub's address. Default $HF_ENDPOINT, else
	// https://huggingface.co.
	Endpoint string
}

// Resolved returns o with its defaults filled in, or what is wrong with it.
// Endpoint stays empty: its default depends on the environment.
func (o PushOptions) Resolved() (PushOptions, error) {
	c := checker{where: "PushOptions"}
	defaulted(&o.Message, "Upload model with gotune")
	defaulted(&o.Revision, "main")
	if o.Endpoint != "" && !strings.HasPrefix(o.Endpoint, "https://") && !strings.HasPrefix(o.Endpoint, "http://") {
		c.fail("Endpoint", o.Endpoint, "an address that begins with https:// or http://", "")
	}
	return o, c.result()
}
