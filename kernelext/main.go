package kernelext

import (
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `usage:
  gotune kernel install   [--user | --prefix DIR]   make the kernel "Go (gotune)" known to Jupyter
  gotune kernel uninstall [--user | --prefix DIR]
  gotune kernel --kernel FILE                       run it; Jupyter does that
`

// Main is the command "gotune kernel": it runs with the arguments after those two words and returns the
// process's exit status.
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	switch args[0] {
	case "install", "uninstall":
		return spec(args[0], args[1:])
	case "guard":
		if len(args) < 3 {
			fmt.Fprintln(os.Stderr, "usage: gotune kernel guard DIR COMMAND…")
			return 2
		}
		return guard(args[1], args[2:])
	case "keep":
		if len(args) < 3 {
			fmt.Fprintln(os.Stderr, "usage: gotune kernel keep LOCK COMMAND…")
			return 2
		}
		return keep(args[1], args[2:])
	case "help", "-h", "-help", "--help":
		fmt.Fprint(os.Stdout, usage)
		return 0
	}
	f := flag.NewFlagSet("gotune kernel", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	file := f.String("kernel", "", "Jupyter's connection file")
	if err := f.Parse(args); err != nil || *file == "" || f.NArg() > 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	return run(*file)
}

// spec is "install" and "uninstall".
func spec(verb string, args []string) int {
	f := flag.NewFlagSet("gotune kernel "+verb, flag.ContinueOnError)
	user := f.Bool("user", false, "for this user (the default)")
	prefix := f.String("prefix", "", "under DIR/share/jupyter, such as a Python environment's folder")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if f.NArg() > 0 || *user && *prefix != "" {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	do := Install
	if verb == "uninstall" {
		do = Uninstall
	}
	dir, err := do(*prefix)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gotune kernel %s: %v\n", verb, err)
		return 1
	}
	fmt.Printf("%sed: kernel %q in %s\n", verb, displayName, dir)
	return 0
}
