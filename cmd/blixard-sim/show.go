package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/blixard/blixard/sim"
)

// show films a world and writes the page.
func show(args []string) int {
	f := flag.NewFlagSet("show", flag.ContinueOnError)
	which := worldFlags(f)
	out := f.String("o", "", "the page; empty: a file in the directory for temporary files")
	if f.Parse(args) != nil {
		return 2
	}
	cfg, err := which.config(f.Args())
	if err != nil {
		return fail(err)
	}
	film := sim.Shoot(cfg)
	if f.NArg() == 1 {
		film.Command = "blixard-sim run " + f.Arg(0)
	}
	if *out == "" {
		*out = filepath.Join(os.TempDir(), fmt.Sprintf("blixard-sim-%d.html", cfg.Seed))
	}
	if err := writePage(*out, film); err != nil {
		return fail(err)
	}
	fmt.Println(*out)
	return 0
}

func writePage(path string, film *sim.Film) error {
	film.Commit = commit()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := film.Page(file); err != nil {
		return err
	}
	return file.Close()
}
