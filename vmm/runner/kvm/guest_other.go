//go:build !amd64

package kvm

import (
	"errors"
	"time"
)

func count() (time.Duration, error) {
	return 0, errors.New("hardware virtualisation is looked for on amd64 only")
}
