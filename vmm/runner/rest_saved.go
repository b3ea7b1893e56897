package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A hypervisor that is asked over HTTP writes its guest into a folder by itself, and
// reads it from there: one request, answered when all of it is done.

// slowest is how many bytes of a guest's memory come through in a second, at least.
const slowest = 16 << 20

var errStalled = errors.New("it writes nothing any more")

func (s *restSession) save(ctx context.Context, dir string) error {
	s.turn.Lock() // it answers nothing else meanwhile
	defer s.turn.Unlock()
	folder := filepath.Join(dir, vmFolder)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	into, called := s.place.saves(folder)
	if err := errors.Join(empty(into), s.place.lendFolder(into)); err != nil {
		return err
	}
	ctx, done := writing(ctx, into)
	defer done()
	err := s.keep(ctx, called)
	if into != folder {
		if err == nil {
			err = moveAll(into, folder)
		}
		err = errors.Join(err, empty(into))
	}
	if taken := reclaim(folder); err == nil {
		err = taken
	}
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("%s has not written its guest: %w", s.name, err)
	}
	return nil
}

// writing ends when nothing is written into a folder for as long as stalled.
func writing(ctx context.Context, dir string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		look := time.NewTicker(stalled / 10)
		defer look.Stop()
		for size, since := int64(-1), time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			if now := blocksOf(dir); now != size {
				size, since = now, time.Now()
			} else if time.Since(since) > stalled {
				cancel(errStalled)
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (s *restSession) load(ctx context.Context, dir string) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	patience := stalled + time.Duration(blocksOf(filepath.Join(dir, vmFolder))/slowest)*time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := s.bring(ctx)
		if err == nil {
			return nil
		}
		if _, gone := familyIn(s.place.run); gone != nil || !unheard(err) {
			return fmt.Errorf("%s does not take its guest: %w: %s", s.name, err, tail(filepath.Join(s.place.run, vmmLog), 3, 600))
		}
		select { // it is just starting
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// empty removes what is in a folder, which may be somebody else's.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// moveAll moves what is in a folder into another one of the same file system.
func moveAll(from, to string) error {
	entries, err := os.ReadDir(from)
	for _, e := range entries {
		err = errors.Join(err, os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
	return err
}
