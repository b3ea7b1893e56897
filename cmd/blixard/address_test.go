package main

import (
	"net"
	"testing"
)

// No two of them are the same, and nobody gets one by chance.
func TestFreeAddressesAreDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 500 {
		address, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil || !a.IP.IsLoopback() || a.Port < 10_000 || a.Port >= 20_000 || seen[address] {
			t.Fatalf("%s (%v), after %d others", address, err, len(seen))
		}
		seen[address] = true
	}
}
