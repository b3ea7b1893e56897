package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// pieceOfFile is what goes in one call.
const pieceOfFile = 256 << 10

func (c *VMCopyCmd) Run(g *Globals, t *terminal, ctx *runContext) error {
	fromVM, from := guestFile(c.From)
	toVM, to := guestFile(c.To)
	switch {
	case (fromVM == "") == (toVM == ""):
		return usagef("want a file of ours and one in a VM: ./site.conf web:/etc/site.conf, or the other way round")
	case !strings.HasPrefix(from, "/") && fromVM != "", !strings.HasPrefix(to, "/") && toVM != "":
		return usagef("a file in a VM has an absolute path: %s:/etc/hosts", or(fromVM, toVM))
	}
	s, err := open(g, t, ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if fromVM != "" {
		return s.copyOut(fromVM, from, to)
	}
	return s.copyIn(from, toVM, to)
}

// guestFile splits VM:/path; a word without a VM is a file of ours, and so is one
// that begins as a path does.
func guestFile(word string) (vm, file string) {
	name, file, found := strings.Cut(word, ":")
	if !found || name == "" || strings.ContainsAny(name, "/.") {
		return "", word
	}
	return name, file
}

// copyOut writes beside the file and renames: half a file never has its name.
func (s *session) copyOut(vm, from, to string) error {
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, path.Base(from))
	}
	f, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*")
	if err != nil {
		return &failure{code: exitError, what: "cannot write " + to, why: err.Error(), next: "name a file in a directory that you may write to"}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	p := s.progress()
	defer p.done()
	for at, end := uint64(0), false; !end; {
		r, err := s.Guest.ReadFile(s.ctx, connect.NewRequest(&blixardv1.ReadFileRequest{Name: vm, Path: from, Offset: at}))
		if err != nil {
			return err
		}
		if at == 0 {
			if err := f.Chmod(os.FileMode(r.Msg.GetMode()).Perm()); err != nil {
				return err
			}
		}
		if _, err := f.Write(r.Msg.GetData()); err != nil {
			return &failure{code: exitError, what: "cannot write " + to, why: err.Error(), next: "make room, or name another file"}
		}
		at += uint64(len(r.Msg.GetData()))
		end = r.Msg.GetEnd() || len(r.Msg.GetData()) == 0
		p.say("%s: %s", from, bytesText(at))
	}
	return errors.Join(f.Close(), os.Rename(f.Name(), to))
}

func (s *session) copyIn(from, vm, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return &failure{code: exitUsage, what: "cannot read " + from, why: err.Error()}
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		return &failure{code: exitUsage, what: from + " is a directory", next: "pack it (tar), copy that, and unpack it with vm exec"}
	}
	if err != nil {
		return err
	}
	if strings.HasSuffix(to, "/") {
		to += filepath.Base(from)
	}
	p := s.progress()
	defer p.done()
	buf := make([]byte, pieceOfFile)
	for at := uint64(0); ; {
		n, err := io.ReadFull(f, buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("read %s: %w", from, err)
		}
		if n > 0 || at == 0 { // an empty file is made, too
			if _, err := s.Guest.WriteFile(s.ctx, connect.NewRequest(&blixardv1.WriteFileRequest{
				Name: vm, Path: to, Offset: at, Data: buf[:n], Mode: uint32(info.Mode().Perm())})); err != nil {
				return err
			}
		}
		at += uint64(n)
		p.say("%s: %s of %s", from, bytesText(at), bytesText(uint64(info.Size())))
		if err != nil {
			return nil
		}
	}
}
