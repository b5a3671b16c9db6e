package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/wire"
	"github.com/spf13/cobra"
)

const trainHelp = `Train the run that CONFIG describes, and show its progress. Interrupting
(Ctrl-C) stops it with a checkpoint; the same command goes on from there. A run
that is done is shown again.

A config has the fields of gotune.Trainer as snake_case keys. The usual names of
training arguments work as well. A model or data set can be just its source.
Unknown keys are errors. What is left out has its default ('go doc
gotune.Trainer' tells it).

    name: llama-2-7b-miniguanaco
    model: NousResearch/Llama-2-7b-chat-hf
    dataset: mlabonne/guanaco-llama2-1k
    lora: {rank: 64, alpha: 16, dropout: 0.1, targets: [q_proj, v_proj]}
    learning_rate: 2e-4
    batch_size: 4
    group_by_length: true

Keys:
`

func trainCmd() *cobra.Command {
	var settings []string
	c := &cobra.Command{
		Use:   "train CONFIG.yaml",
		Short: "Fine-tune a model as a YAML file says",
		Long:  trainHelp + keys(reflect.TypeFor[gotune.Trainer](), "    "),
		Example: `  gotune train run.yaml
  gotune train run.yaml --set learning_rate=1e-4 --set lora.rank=32 --set name=run2`,
		Args: rangeArgs(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := readConfig(args[0], settings)
			if err != nil {
				return err
			}
			if t, err = t.Resolved(); err != nil {
				return inKeys(err)
			}
			_, err = t.Train()
			return err
		},
	}
	c.Flags().StringArrayVar(&settings, "set", nil, "set a key of the config to a value: `KEY=VALUE`; may be given several times")
	return c
}

// inKeys names a config's field by its key in the file.
func inKeys(err error) error {
	var e *gotune.Error
	if !errors.As(err, &e) || e.Op != "check" {
		return err
	}
	named := *e
	parts := strings.Split(strings.TrimPrefix(e.Object, "Trainer."), ".")
	for i, p := range parts {
		parts[i] = keyOf(strings.TrimPrefix(p, "Eval as "))
	}
	if strings.Contains(e.Object, "Eval as ") {
		parts[0] = "eval"
	}
	named.Op, named.Object = "check the config:", strings.Join(parts, ".")
	return &named
}

func attachCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "attach RUN",
		Short: "Follow a run that is under way, or show one that has ended",
		Long:  "Follow a run from its beginning until it ends. Interrupting (Ctrl-C) leaves the run alone.",
		Args:  rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := gotune.Trainer{Name: args[0]}.Attach()
			return err
		},
	}
}

// sampling adds the flags of gotune.Sampling to a command.
func sampling(c *cobra.Command) *gotune.Sampling {
	var s gotune.Sampling
	f := c.Flags()
	f.IntVar(&s.MaxLength, "max-length", 0, "tokens to stop at, prompt included (default 200)")
	f.IntVar(&s.MaxNewTokens, "max-new-tokens", 0, "tokens to generate at most, instead of --max-length")
	f.Float64Var(&s.Temperature, "temperature", 0, "0: always the likeliest token")
	f.IntVar(&s.TopK, "top-k", 0, "choose among the k likeliest tokens; 0: all")
	f.Float64Var(&s.TopP, "top-p", 0, "choose among the likeliest tokens of this probability (default 1)")
	f.Float64Var(&s.RepetitionPenalty, "repetition-penalty", 0, "above 1: repeat less (default 1)")
	f.Int64Var(&s.Seed, "seed", 0, "start of the random choices (default 42)")
	f.BoolVar(&s.Base, "base", false, "switch the run's adapter off")
	return &s
}

// A speaker generates text: a model, or a run's tuned model.
type speaker interface {
	GenerateContext(ctx context.Context, prompt string, s gotune.Sampling) (gotune.Generation, error)
	GenerateAllContext(ctx context.Context, prompts []string, s gotune.Sampling) ([]gotune.Generation, error)
}

// who adds the flags that name a model or a run.
func who(c *cobra.Command) func() (speaker, error) {
	model := c.Flags().String("model", "", "model: a Hub id, a folder, or embedded")
	quant := c.Flags().String("quant", "", "how its weights are held: nf4 (default), fp4, none")
	run := c.Flags().String("run", "", "run whose tuned model speaks")
	return func() (speaker, error) {
		switch {
		case (*model == "") == (*run == ""):
			return nil, errUsage{errors.New("give one of --model and --run")}
		case *run != "":
			if *quant != "" {
				return nil, errUsage{errors.New("--quant goes with --model; a run's model is held as its config says")}
			}
			return gotune.Trainer{Name: *run}, nil
		}
		return gotune.Model{Source: *model, Quant: gotune.Quantization{Type: *quant}}, nil
	}
}

func generateCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "generate (--model SOURCE | --run RUN) PROMPT…",
		Short: "Let a model answer prompts",
		Long: `Let a model, or a run's tuned model, answer each prompt. The prompt is put into
the model's prompt form, <s>[INST] … [/INST], unless --raw is given. A prompt "-"
is read from standard input. Several prompts are answered side by side, which
takes little longer than the longest answer alone.`,
		Example: `  gotune generate --run run1 "What is a slice?"
  gotune generate --model embedded --temperature 0.7 --top-p 0.9 "What is a slice?"`,
		Args: func(c *cobra.Command, args []string) error { return usage(cobra.MinimumNArgs(1)(c, args)) },
	}
	s, speaker := sampling(c), who(c)
	c.Flags().BoolVar(&s.Raw, "raw", false, "take the prompt as it is")
	c.RunE = func(c *cobra.Command, args []string) error {
		speak, err := speaker()
		if err != nil {
			return err
		}
		for i, prompt := range args {
			if prompt == "-" {
				b, err := io.ReadAll(c.InOrStdin())
				if err != nil {
					return fmt.Errorf("read the prompt from standard input: %w", err)
				}
				args[i] = string(b)
			}
		}
		if len(args) == 1 {
			_, err = speak.GenerateContext(c.Context(), args[0], *s)
		} else {
			_, err = speak.GenerateAllContext(c.Context(), args, *s)
		}
		return err
	}
	return c
}

func saveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "save RUN [DIR]",
		Short: "Write a run's adapter in PEFT's format",
		Long:  "Write a run's adapter to the folder DIR in PEFT's format. Default: \"adapter\" in the run's output folder.",
		Args:  rangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := gotune.Trainer{Name: args[0]}.Save(second(args))
			return err
		},
	}
}

func mergeCmd() *cobra.Command {
	var o gotune.MergeOptions
	c := &cobra.Command{
		Use:   "merge RUN [DIR]",
		Short: "Write a run's model with the adapter merged in",
		Long: `Add a run's adapter to the weights of its model and write the whole model to the
folder DIR in the Hugging Face layout. Default: "merged" in the run's output
folder.`,
		Args: rangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := gotune.Trainer{Name: args[0]}.Merge(second(args), o)
			return err
		},
	}
	c.Flags().StringVar(&o.DType, "dtype", "", "type of the weights: float16 (default), bfloat16, float32")
	c.Flags().Int64Var(&o.MaxShardBytes, "max-shard-bytes", 0, "size of a weight file (default 5e9)")
	return c
}

// second is the second argument, "" if there is none.
func second(args []string) string {
	if len(args) < 2 {
		return ""
	}
	return args[1]
}

func pushCmd() *cobra.Command {
	var o gotune.PushOptions
	c := &cobra.Command{
		Use:   "push DIR OWNER/NAME",
		Short: "Send a model or an adapter to the Hugging Face Hub",
		Long: `Send the folder DIR, a merged model or an adapter, to a repository on the Hub in
one commit. The repository is made if need be. The token is $HF_TOKEN, or the
one that 'hf auth login' stored.`,
		Args: rangeArgs(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := gotune.Push(args[0], args[1], o)
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Private, "private", false, "make a new repository private")
	f.BoolVar(&o.DryRun, "dry-run", false, "show what would be sent, and send nothing")
	f.StringVar(&o.Message, "message", "", "title of the commit")
	f.StringVar(&o.Revision, "revision", "", "branch to commit to (default main)")
	f.StringVar(&o.Endpoint, "endpoint", "", "address of the Hub (default $HF_ENDPOINT)")
	return c
}

func doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine has and what gotune will use",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { _, err := gotune.Doctor(); return err },
	}
}

func statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what the engine holds and does",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { _, err := gotune.Status(); return err },
	}
}

// stopWait is how long an engine may take to write its last checkpoint.
const stopWait = 2 * time.Minute

func stopCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "stop [RUN]",
		Short: "Stop a run, or the engine",
		Long: `Stop a run at its next step with a checkpoint. Without a name, stop the engine;
a run that is under way writes a checkpoint first.`,
		Args: rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				_, err := gotune.Trainer{Name: args[0]}.Stop()
				return err
			}
			return stopEngine(c.Context(), c.OutOrStdout())
		},
	}
}

// stopEngine tells the engine to end and waits until it has.
func stopEngine(ctx context.Context, out io.Writer) error {
	socket := wire.SocketPath()
	err := wire.Do(ctx, socket, wire.Request{Verb: wire.VerbShutdown}, nil)
	if errors.Is(err, wire.ErrNoServer) {
		fmt.Fprintln(out, "No engine is running.")
		return nil
	}
	if err != nil {
		return gotune.AsError("stop the engine", err)
	}
	for end := time.Now().Add(stopWait); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := wire.Ping(ctx, socket); errors.Is(err, wire.ErrNoServer) {
			fmt.Fprintln(out, "The engine has ended.")
			return nil
		}
	}
	return &gotune.Error{Kind: gotune.KindBusy, Op: "stop the engine", Found: "it still answers after " + stopWait.String(), Next: "gotune status shows its process"}
}
