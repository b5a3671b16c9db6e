package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/gotune/gotune/gotune"
	"github.com/spf13/cobra"
)

func chatCmd() *cobra.Command {
	var system string
	c := &cobra.Command{
		Use:   "chat (--model SOURCE | --run RUN)",
		Short: "Talk with a model",
		Long: `Talk with a model, or with a run's tuned model, in its Llama-2 prompt form. The
model sees the whole talk. A line is what you say; Ctrl-C stops an answer.

    /new    begin a new talk
    /quit   end (so does Ctrl-D)`,
		Args: noArgs,
	}
	s, speaker := sampling(c), who(c)
	c.Flags().StringVar(&system, "system", "", "system prompt: how the model should behave")
	c.RunE = func(c *cobra.Command, _ []string) error {
		speak, err := speaker()
		if err != nil {
			return err
		}
		if s.MaxLength == 0 && s.MaxNewTokens == 0 {
			s.MaxNewTokens = 256
		}
		if _, err := s.Resolved(); err != nil {
			return usage(err)
		}
		return chat(c, speak, *s, system)
	}
	return c
}

// chat reads lines and lets the model answer until the input ends.
func chat(c *cobra.Command, speak speaker, s gotune.Sampling, system string) error {
	in, out := bufio.NewReader(c.InOrStdin()), c.OutOrStdout()
	talk := talk{system: system}
	s.Raw = true
	for {
		fmt.Fprint(out, "> ")
		line, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read what you say: %w", err)
		}
		ended := err != nil
		switch line = strings.TrimSpace(line); line {
		case "":
		case "/quit":
			return nil
		case "/new":
			talk.turns = nil
		default:
			ctx, cancel := signal.NotifyContext(c.Context(), os.Interrupt)
			g, err := speak.GenerateContext(ctx, talk.prompt(line), s)
			cancel()
			if err != nil && !errors.Is(err, gotune.ErrInterrupted) {
				return err
			}
			talk.turns = append(talk.turns, [2]string{line, g.Text})
		}
		if ended {
			fmt.Fprintln(out)
			return nil
		}
	}
}

// A talk is what was said so far.
type talk struct {
	system string
	turns  [][2]string // what the user said, what the model answered
}

// prompt is the whole talk in the Llama-2 form, with the next line at its end.
// The first <s> is left to the engine.
func (t talk) prompt(line string) string {
	var b strings.Builder
	for i, turn := range append(t.turns, [2]string{line, ""}) {
		if i > 0 {
			b.WriteString("<s>")
		}
		said := turn[0]
		if i == 0 && t.system != "" {
			said = "<<SYS>>\n" + t.system + "\n<</SYS>>\n\n" + said
		}
		b.WriteString("[INST] " + said + " [/INST]")
		if i < len(t.turns) {
			b.WriteString(" " + strings.TrimSpace(turn[1]) + " </s>")
		}
	}
	return b.String()
}
