//go:build linux && amd64

package main

import "sync/atomic"

// limiter counts who is inside.
type limiter struct{ n atomic.Int32 }

// enter says whether there was room.
func (l *limiter) enter(limit int32) bool {
	if l.n.Add(1) > limit {
		l.n.Add(-1)
		return false
	}
	return true
}

func (l *limiter) leave() { l.n.Add(-1) }
