package runner

import (
	"context"
	"path/filepath"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm/runner/vmdir"
	"github.com/blixard/blixard/vmm/shim"
)

// qemu boots images on the machine "microvm".
type qemu struct {
	images
	machine machine
	log     func(msg string, args ...any)
	warn    func(msg string, args ...any)
}

func (q *qemu) prepare(ctx context.Context, p place, a *blixardv1.Assignment, i shim.Instance) (command, error) {
	b, err := q.files(ctx, p, a, i)
	if err != nil {
		return command{}, err
	}
	argv, err := q.machine.argv(b)
	if err != nil {
		return command{}, err
	}
	if err := clean(p.run, qmpSocket, consoleSocket, agentSocket, qemuLog, outgoingSocket, incomingSocket, diskSocket); err != nil {
		return command{}, err
	}
	c := command{argv: argv, env: []string{"PATH=/usr/bin:/bin"}, dir: p.run, output: filepath.Join(p.run, qemuLog), balloon: q.machine.balloon(b)}
	c.shape = q.machine.shape(b)
	for i, d := range b.disks {
		if !d.readOnly {
			c.written = append(c.written, drive(i))
		}
	}
	return b.beside(c), nil
}

// prepareIncoming has QEMU wait for a guest, and not run it by itself.
func (q *qemu) prepareIncoming(_ context.Context, p place, _ shim.Instance, c command) (command, error) {
	c.argv = append(c.argv, "-S", "-incoming", "unix:"+p.socket(incomingSocket))
	return c, nil
}

// said is what QEMU itself has said, and what runs beside it.
func (q *qemu) said(p place) string {
	b, _ := vmdir.ReadFile(filepath.Join(p.run, qemuLog), 8<<20)
	return string(b)
}

func (q *qemu) lastWords(p place) string { return lastLines(q.said(p), 3, 600) }

func (q *qemu) follow(p place, tell func(guestState)) session { return q.watch(p, false, tell) }

func (q *qemu) watch(p place, inside bool, tell func(guestState)) *qemuSession {
	ctx, cancel := context.WithCancel(context.Background())
	s := &qemuSession{q: q, place: p, inside: inside, tell: tell, cancel: cancel, done: make(chan struct{}), moved: make(chan struct{}, 1), turn: make(chan struct{}, 1), pressed: make(chan struct{}, 1)}
	go s.watch(ctx)
	return s
}

const qmpPatience = 3 * time.Second
