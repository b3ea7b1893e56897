// Command blixard makes one machine out of many for microVMs.
//
// # Map
//
// The command line is a client like any other: grammar.go lists what can be
// typed, commands_*.go carry each command out over the API, and what they share
// is one idea a file: spec.go and specfile.go turn flags and YAML into a VMSpec,
// artifact.go brings the client's files to the cluster, wait.go waits and shows
// progress, output.go prints, failure.go turns errors into words and exit codes.
//
// serve is the other half: the production world around one core.Node. config.go
// says what a node is told, world.go wires the real disk, network and
// hypervisors to the node, loop.go is the one goroutine that steps it, and
// daemon.go is its life as a process. up.go starts a few of them on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/blixard/blixard/vmm/runner/shims"
)

// version is set by the linker (-X main.version=...).
var version = "dev"

func main() {
	if shims.Called() {
		os.Exit(shims.Main())
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its world in its arguments.
func run(args []string, in io.Reader, out, err io.Writer) int {
	var cli CLI
	exited := -1
	parser, e := kong.New(&cli,
		kong.Name("blixard"),
		kong.Description("One machine out of many, for microVMs.\n\n"+exitCodes),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Writers(out, err),
		kong.Exit(func(code int) {
			if exited < 0 {
				exited = code
			}
		}),
	)
	if e != nil {
		panic(e) // the grammar itself is wrong
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, e := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if e != nil {
		return explain(err, usageError(args, e), "")
	}
	if _, folder := k.Selected().Target.Addr().Interface().(folderWriter); !folder && !slices.Contains(outputs, cli.Output) {
		return explain(err, usagef("--output must be one of %s, not %q", strings.Join(outputs, ", "), cli.Output), "")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &terminal{in: in, out: out, err: err, tty: isTerminal(err)}
	e = k.Run(&cli.Globals, t, &runContext{ctx})
	if e != nil && ctx.Err() != nil && errors.Is(e, context.Canceled) {
		fmt.Fprintln(err, "blixard: interrupted")
		return exitInterrupted
	}
	return explain(err, e, cli.Globals.RequestID)
}

// runContext hands the context to kong's Run methods.
type runContext struct{ context.Context }

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	tty      bool // err is a terminal: progress may be drawn
}
