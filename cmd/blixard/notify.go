package main

import (
	"net"
	"os"
)

// notifier tells systemd how we are, when systemd wants to know.
type notifier struct{ socket string }

// newNotifier takes the socket out of the environment, so that no VM's process
// inherits it and speaks for us.
func newNotifier() notifier {
	s := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	return notifier{s}
}

// say sends a state such as READY=1, best effort.
func (n notifier) say(state string) {
	if n.socket == "" {
		return
	}
	name := n.socket
	if name[0] == '@' {
		name = "\x00" + name[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	c.Write([]byte(state))
}
