package sim

import (
	crand "crypto/rand"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"time"
)

// chance is where every choice comes from: one seed, and a stream for each name,
// so that a choice more in one place changes none in another.
type chance struct{ seed uint64 }

func (c chance) stream(name string) *rand.Rand {
	h := uint64(0xcbf29ce484222325)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	return rand.New(rand.NewPCG(c.seed, mix(h)))
}

// mix is SplitMix64's finisher: every bit of x reaches every bit of the result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// maybe is true with probability p.
func maybe(r *rand.Rand, p float64) bool { return p > 0 && r.Float64() < p }

// between is uniform over [lo, hi].
func between(r *rand.Rand, lo, hi time.Duration) int64 {
	if hi <= lo {
		return int64(lo)
	}
	return int64(lo) + r.Int64N(int64(hi-lo)+1)
}

// tail is mostly near mean, at times much longer, and never above most.
func tail(r *rand.Rand, mean, most time.Duration) int64 {
	return min(int64(r.ExpFloat64()*float64(mean)), int64(most))
}

// pick is one of the given.
func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// entropy stands for crypto/rand.Reader: Raft's election jitter comes from it.
// It draws from the stream of whichever machine is taking a step.
type entropy struct{ w *World }

func (e entropy) Read(b []byte) (int, error) {
	r := e.w.entropy
	if e.w.stepping != nil {
		r = e.w.stepping.entropy
	}
	var word [8]byte
	for n := 0; n < len(b); n += 8 {
		binary.LittleEndian.PutUint64(word[:], r.Uint64())
		copy(b[n:], word[:])
	}
	return len(b), nil
}

// lived is the World that has crypto/rand.Reader now.
var lived struct {
	w    *World
	real io.Reader
}

// takeEntropy makes w the one World of this process.
func takeEntropy(w *World) {
	if lived.w != nil {
		panic("sim: another World lives in this process: Close it first")
	}
	lived.w, lived.real = w, crand.Reader
	crand.Reader = entropy{w}
}

// giveEntropyBack says whether w was the one that had it.
func giveEntropyBack(w *World) bool {
	if lived.w != w {
		return false
	}
	crand.Reader = lived.real
	lived.w, lived.real = nil, nil
	return true
}
