package main

import (
	"fmt"
	"strconv"

	"github.com/gotune/gotune/gotune"
	"github.com/spf13/cobra"
)

func pauseCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "pause RUN",
		Short: "Hold a run at the end of its step",
		Long: `Hold a run at the end of its step, and return once it is held. Its memory stays;
the device is free for other commands. 'gotune resume' lets it go on, 'gotune
stop' ends it with a checkpoint.`,
		Args: rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := gotune.Trainer{Name: args[0]}.Pause()
			return err
		},
	}
}

func resumeCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "resume RUN",
		Short: "Let a paused run go on",
		Long:  "Let a paused run go on. A run that was stopped goes on by 'gotune train' with its config.",
		Args:  rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := gotune.Trainer{Name: args[0]}.Resume()
			return err
		},
	}
}

func rateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "lr RUN VALUE",
		Short: "Give a run under way another peak learning rate",
		Long: `Give a run under way another peak learning rate from its next step on. The
schedule keeps its shape and its place. Checkpoints keep the rate.`,
		Example: "  gotune lr run1 1e-4",
		Args:    rangeArgs(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			lr, err := strconv.ParseFloat(args[1], 64)
			if err != nil {
				return errUsage{fmt.Errorf("VALUE is %q, want a number, e.g. 1e-4", args[1])}
			}
			_, err = gotune.Trainer{Name: args[0]}.SetLearningRate(lr)
			return err
		},
	}
}

func sampleCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "sample RUN PROMPT",
		Short: "Let a run's model answer while it trains",
		Long: `Let the model of a run under way answer a prompt, and keep both in the run's
record. 'gotune generate --run' asks without a record, also when the run has
ended.`,
		Example: `  gotune sample run1 "What is a slice?" --max-new-tokens 60`,
		Args:    rangeArgs(2, 2),
	}
	s := sampling(c)
	c.Flags().BoolVar(&s.Raw, "raw", false, "take the prompt as it is")
	c.RunE = func(_ *cobra.Command, args []string) error {
		_, err := gotune.Trainer{Name: args[0]}.Sample(args[1], *s)
		return err
	}
	return c
}
