package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/blixard/blixard/sim"
)

// pool runs many seeds, in a process per core.
type pool struct {
	which   which
	seeds   uint64 // from which.seed on
	jobs    int
	flags   []string // of a worker, besides those that say which world
	program string   // another build of this program; empty: this one
	env     []string // besides our own
}

// each hands over results as they come, in no order, until seen says enough.
func (p pool) each(seen func(sim.Result) bool) error {
	results, ends := make(chan sim.Result), make(chan error)
	stop := make(chan struct{})
	var workers []*exec.Cmd
	for j := range uint64(p.jobs) {
		cmd, pipe, err := p.start(j)
		if err != nil {
			return err
		}
		workers = append(workers, cmd)
		go func() {
			in := json.NewDecoder(pipe)
			for {
				var r sim.Result
				if in.Decode(&r) != nil {
					break
				}
				select {
				case results <- r:
				case <-stop:
				}
			}
			ends <- cmd.Wait()
		}()
	}
	enough, open := false, len(workers)
	var err error
	for open > 0 {
		select {
		case r := <-results:
			if !enough && !seen(r) {
				enough = true
				close(stop)
				for _, w := range workers {
					w.Process.Kill()
				}
			}
		case e := <-ends:
			open--
			if e != nil && !enough && err == nil {
				err = fmt.Errorf("a worker ended: %w", e)
			}
		}
	}
	return err
}

// start starts the j-th worker, which takes every jobs-th seed.
func (p pool) start(j uint64) (*exec.Cmd, io.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	mine := p.which
	mine.seed += j
	args := append([]string{"worker", fmt.Sprintf("-step=%d", p.jobs), fmt.Sprintf("-last=%d", p.which.seed+p.seeds-1)}, mine.flags()...)
	cmd := exec.Command(cmp.Or(p.program, self), append(args, p.flags...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), p.env...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, pipe, cmd.Start()
}
