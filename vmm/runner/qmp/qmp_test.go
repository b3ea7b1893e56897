package qmp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake plays QEMU: talk is given the connection and its lines.
func fake(t *testing.T, talk func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go talk(conn, bufio.NewReader(conn))
		}
	}()
	return path
}

const greeting = `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7}},"capabilities":["oob"]}}` + "\r\n"

// answer plays a well-behaved QEMU with one answer per command, in which %s is
// the id.
func answers(words map[string]string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		fmt.Fprint(conn, greeting)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			_, id, _ := strings.Cut(line, `"id":`)
			id = strings.Trim(id, "}\n")
			for name, answer := range words {
				if strings.Contains(line, `"execute":"`+name+`"`) {
					fmt.Fprint(conn, strings.ReplaceAll(answer, "%s", id))
				}
			}
		}
	}
}

const ok = `{"return":{},"id":%s}` + "\n"

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestCommandsAndEvents(t *testing.T) {
	path := fake(t, answers(map[string]string{
		"qmp_capabilities": ok,
		"query-status":     `{"timestamp":{},"event":"RESUME"}` + "\n" + `{"return":{"status":"running","running":true},"id":%s}` + "\n",
		"system_powerdown": `{"id":%s,"error":{"class":"GenericError","desc":"no button"}}` + "\n",
		"quit":             `{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-qmp-quit"}}` + "\n" + ok,
	}))
	events := make(chan Event, 8)
	c, err := Dial(patient(t), path, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Status(patient(t)); err != nil || s != "running" {
		t.Fatal(s, err)
	}
	if e := <-events; e.Name != "RESUME" {
		t.Fatal(e)
	}
	var refused *Error
	if err := c.Powerdown(patient(t)); !errors.As(err, &refused) || refused.Desc != "no button" {
		t.Fatal(err)
	}
	if err := c.Quit(patient(t)); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Name != "SHUTDOWN" || !strings.Contains(string(e.Data), "host-qmp-quit") {
		t.Fatal(e)
	}
}

func TestASocketThatHangsHoldsUpNobodyForever(t *testing.T) {
	silent := fake(t, func(net.Conn, *bufio.Reader) {})
	deaf := fake(t, answers(map[string]string{"qmp_capabilities": ok}))
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	if _, err := Dial(soon(), silent, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	c, err := Dial(patient(t), deaf, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if _, err := c.Status(soon()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if len(c.waiting) != 0 {
		t.Fatal("who gave up still waits")
	}
}

func TestAConnectionThatEndsEndsItsCalls(t *testing.T) {
	path := fake(t, func(conn net.Conn, in *bufio.Reader) {
		fmt.Fprint(conn, greeting)
		in.ReadString('\n')
		fmt.Fprint(conn, strings.ReplaceAll(ok, "%s", "1"))
		in.ReadString('\n')
		conn.Close()
	})
	c, err := Dial(patient(t), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(patient(t)); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	<-c.Gone()
	if err := c.Quit(patient(t)); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestWhatIsNoQMPIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"html": "<html>\n", "other": "{}\n", "array": "[1]\n", "endless": strings.Repeat("x", maxLine+1), "nothing": "",
	} {
		path := fake(t, func(conn net.Conn, _ *bufio.Reader) {
			fmt.Fprint(conn, text)
			conn.Close()
		})
		if c, err := Dial(patient(t), path, nil); err == nil {
			c.Close()
			t.Errorf("%s: taken for QMP", name)
		}
	}
}
