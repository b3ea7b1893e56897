package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// chosen are the addresses that this process has chosen: what listens there may not have
// begun to.
var chosen sync.Map

// freeAddress returns an address of loopback where nothing listens, another one each
// time. Its port is none of those that the kernel gives to connections and to whoever
// listens on port 0 (by default 32768 to 60999, ip_local_port_range of tcp(7)): one of
// these could take it before a node listens there, or while a node is restarted.
func freeAddress() (string, error) {
	var last error
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000))
		if _, taken := chosen.LoadOrStore(address, true); taken {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
			return address, nil
		}
		last = err
	}
	return "", fmt.Errorf("no free port from 10000 to 19999 on loopback: %w", last)
}
