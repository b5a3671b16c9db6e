// Command gotune fine-tunes Llama models from the command line, and is the
// engine and the Jupyter kernel that notebooks use.
//
//	gotune train run.yaml
//	gotune generate --run run1 "What is a slice?"
//	gotune merge run1 out/merged
//	gotune push out/merged me/my-llama
//
// `gotune help` lists the commands, `gotune help train` the keys of a config.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/gotune/gotune/gotune/internal/engine"
	"github.com/gotune/gotune/kernelext"
	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:])) }

// errUsage marks errors in the command line itself.
type errUsage struct{ error }

// run executes the command line and returns the exit code: 0, 1 for a failure,
// 2 for a command line that can't be understood.
func run(args []string) int { return runRoot(newRoot(), args) }

func runRoot(root *cobra.Command, args []string) int {
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(context.Background())
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(errExit)):
		var e errExit
		errors.As(err, &e)
		return int(e)
	}
	fmt.Fprintln(root.ErrOrStderr(), "gotune:", err)
	var usage errUsage
	if errors.As(err, &usage) || !cmd.Runnable() {
		fmt.Fprintf(root.ErrOrStderr(), "Run '%s --help' to see how it is used.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

// errExit ends the program with a code, with nothing more to say.
type errExit int

func (e errExit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "gotune",
		Short: "Fine-tune Llama models from Go",
		Long: `gotune fine-tunes language models of the Llama family: 4-bit QLoRA training,
generation, merging, and pushing to the Hugging Face Hub. The same package runs
in Go notebooks; these commands do the same from YAML and the shell.

Models and runs live in the engine, a process that the first command starts. It
goes on when a command ends, and ends by itself when it has nothing to do.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetVersionTemplate("gotune {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return errUsage{err} })
	root.AddGroup(&cobra.Group{ID: "work", Title: "Work:"}, &cobra.Group{ID: "engine", Title: "Engine and machine:"})
	for _, c := range []*cobra.Command{trainCmd(), attachCmd(), pauseCmd(), resumeCmd(), rateCmd(), sampleCmd(), generateCmd(), chatCmd(), saveCmd(), mergeCmd(), pushCmd()} {
		c.GroupID = "work"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{doctorCmd(), pluginCmd(), statusCmd(), stopCmd(), engineCmd(), kernelCmd(), versionCmd()} {
		c.GroupID = "engine"
		root.AddCommand(c)
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

func engineCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "engine [flags]",
		Short: "Run the engine in the foreground (other commands start it by themselves)",
		Long: `Run the engine: the process that holds models and runs. Other commands and
notebooks start it by themselves, so this is for looking at its log or for
running it under a supervisor. 'gotune engine -h' lists its flags.`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return exitError(engine.Main(args, version()))
		},
	}
}

func kernelCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "kernel install | uninstall | --kernel FILE",
		Short: `Install, remove or run the Jupyter kernel "Go (gotune)"`,
		Long: `The Jupyter kernel "Go (gotune)": GoNB with the engine's life and the %gotune
commands added. 'gotune kernel install' makes it known to Jupyter, which then
runs 'gotune kernel --kernel FILE' for each notebook.`,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return exitError(kernelext.Main(args)) },
	}
}

func exitError(code int) error {
	if code == 0 {
		return nil
	}
	return errExit(code)
}

func versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		Run:   func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "gotune", version()) },
	}
}

// version is the module's version, or the commit the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	v := info.Main.Version
	if v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if commit == "" {
		return "devel"
	}
	return "devel-" + commit + dirty
}

// noArgs and exactArgs are cobra's checks as usage errors.
func noArgs(c *cobra.Command, args []string) error { return usage(cobra.NoArgs(c, args)) }

func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error { return usage(cobra.RangeArgs(low, high)(c, args)) }
}

func usage(err error) error {
	if err == nil {
		return nil
	}
	return errUsage{err}
}
