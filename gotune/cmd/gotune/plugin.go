package main

import (
	"errors"
	"fmt"

	"github.com/gotune/gotune/cuda"
	"github.com/spf13/cobra"
)

func pluginCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "plugin",
		Short: "Show or fetch the XLA plugins for CPU and CUDA",
		Long: `XLA runs on a device through a PJRT plugin, a shared library from a Python
wheel. gotune keeps its own in the user's cache folder, checked by sha256 each
time it is used.`,
	}
	c.AddCommand(&cobra.Command{
		Use:   "show",
		Short: "Show which plugins are there",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, kind := range []cuda.Kind{cuda.CPU, cuda.CUDA} {
				p, err := cuda.Find(kind)
				switch {
				case errors.Is(err, cuda.ErrNoPlugin):
					fmt.Fprintf(c.OutOrStdout(), "%-5s none; get it with: gotune plugin fetch %s\n", kind, kind)
				case err != nil:
					return err
				default:
					fmt.Fprintf(c.OutOrStdout(), "%-5s %s, from the %s: %s\n", kind, p.Version, p.Origin, p.Path)
				}
			}
			return nil
		},
	}, &cobra.Command{
		Use:       "fetch cpu|cuda",
		Short:     "Download a plugin with pip, unless it is there",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{string(cuda.CPU), string(cuda.CUDA)},
		RunE: func(c *cobra.Command, args []string) error {
			p, err := cuda.Fetch(c.Context(), cuda.Kind(args[0]), func(line string) { fmt.Fprintln(c.OutOrStdout(), line) })
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s %s is at %s\n", p.Kind, p.Version, p.Path)
			return nil
		},
	})
	return c
}
