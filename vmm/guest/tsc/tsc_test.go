package tsc

import (
	"runtime"
	"testing"
)

func TestMeasurementsAgree(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("only amd64 has this counter")
	}
	a, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	b, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	if diff := float64(a)/float64(b) - 1; diff < -0.01 || diff > 0.01 {
		t.Fatalf("%d kHz, then %d kHz", a, b)
	}
	t.Logf("%d kHz", a)
}
