package rpc

import (
	"strings"
	"testing"
	"time"
)

func TestRequestID(t *testing.T) {
	now := time.Now()
	a, b := NewRequestID(), NewRequestID()
	if a == b {
		t.Error("the same id twice")
	}
	for _, given := range []string{a, strings.ToUpper(a)} {
		if got, err := requestID(given, now); err != nil || got != a {
			t.Errorf("%s: %s, %v", given, got, err)
		}
	}
	if got, err := requestID("", now); err != nil || len(got) != 36 {
		t.Errorf("none given: %s, %v", got, err)
	}
	if _, err := requestID(a, now.Add(-maxAhead-time.Second)); err == nil {
		t.Error("an id from the future is taken")
	}
	if _, err := requestID(a, now.Add(-maxAhead+time.Second)); err != nil {
		t.Errorf("a clock that is a little ahead: %v", err)
	}
	for _, bad := range []string{
		"x", "{" + a + "}", a + "0", a[:35], strings.ReplaceAll(a, "-", ""), a[:35] + "g", a[:35] + "\x00",
		"0198a0c0-0000-4000-8000-000000000000", // version 4
		"0198a0c0-0000-7000-c000-000000000000", // another variant
		a[:8] + "_" + a[9:],
	} {
		if got, err := requestID(bad, now); err == nil {
			t.Errorf("%q is taken as %s", bad, got)
		}
	}
}
