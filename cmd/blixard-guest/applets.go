//go:build linux && amd64

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// applets are the programs of a guest that has no other: enough to see that
// an exec runs, reads, writes, fails and takes time.
var applets = map[string]func(args []string) error{
	"cat":   cat,
	"date":  func([]string) error { fmt.Println(time.Now().UTC().Format(time.RFC3339Nano)); return nil },
	"echo":  func(args []string) error { fmt.Println(strings.Join(args, " ")); return nil },
	"env":   func([]string) error { fmt.Println(strings.Join(os.Environ(), "\n")); return nil },
	"false": func([]string) error { return errQuiet },
	"ls":    ls,
	"sleep": sleep,
	"true":  func([]string) error { return nil },
	"uname": uname,
}

// errQuiet fails without a word.
var errQuiet = errors.New("failed")

// linkApplets gives every applet a name in /bin.
func linkApplets(out *console) {
	os.Setenv("PATH", "/bin")
	if err := os.MkdirAll("/bin", 0o755); err != nil {
		out.say("error: %v", err)
	}
	for name := range applets {
		if err := os.Symlink("/init", filepath.Join("/bin", name)); err != nil {
			out.say("error: %v", err)
		}
	}
}

// applet runs one and returns its exit status.
func applet(name string, args []string) int {
	f, ok := applets[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s is the init of a blixard guest: it runs as PID 1 inside a microVM, and does nothing elsewhere\n", name)
		return 127
	}
	err := f(args)
	if err == nil {
		return 0
	}
	if err != errQuiet {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
	return 1
}

func cat(args []string) error {
	if len(args) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	for _, a := range args {
		f, err := os.Open(a)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func ls(args []string) error {
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, a := range args {
		entries, err := os.ReadDir(a)
		if err != nil {
			return err
		}
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	}
	return nil
}

func sleep(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument: seconds, or a duration such as 1.5s")
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		d, err = time.ParseDuration(args[0] + "s")
	}
	if err != nil {
		return err
	}
	time.Sleep(d)
	return nil
}

func uname(args []string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	line, err := unameLine(&u, args)
	if err == nil {
		fmt.Println(line)
	}
	return err
}

// unameLine has what the flags ask for, in the order that uname has.
func unameLine(u *unix.Utsname, args []string) (string, error) {
	const order = "snrvm"
	asked := ""
	for _, a := range args {
		flags, ok := strings.CutPrefix(a, "-")
		if flags == "a" {
			flags = order
		}
		if !ok || flags == "" || strings.Trim(flags, order) != "" {
			return "", fmt.Errorf("%s: want -a, or some of -s -n -r -v -m", a)
		}
		asked += flags
	}
	if asked == "" {
		asked = "s"
	}
	var words []string
	for i, field := range [][]byte{u.Sysname[:], u.Nodename[:], u.Release[:], u.Version[:], u.Machine[:]} {
		if strings.Contains(asked, order[i:i+1]) {
			words = append(words, unix.ByteSliceToString(field))
		}
	}
	return strings.Join(words, " "), nil
}
