package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// SimCmd becomes the simulator, a program of its own: what runs VMs carries
// nothing that simulates them.
type SimCmd struct {
	Args []string `arg:"" optional:"" passthrough:"" help:"run, soak, shrink, show, enumerate or mutants, and their flags; nothing shows them."`
}

func (c *SimCmd) Run() error {
	program, err := simulator()
	if err != nil {
		return err
	}
	err = syscall.Exec(program, append([]string{program}, c.Args...), os.Environ())
	return fmt.Errorf("execute %s: %w", program, err)
}

// simulator is blixard-sim beside our own program, or in the PATH.
func simulator() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "blixard-sim")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	if found, err := exec.LookPath("blixard-sim"); err == nil {
		return found, nil
	}
	return "", errors.New("there is no blixard-sim beside this program nor in the PATH: scripts/build makes both")
}
