package cluster

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A backup gives back the state that it was made of; what is cut, changed or longer
// gives an error, and never another state.
func TestBackupIsWholeOrRefused(t *testing.T) {
	d := newDriver()
	d.boot(1)
	for _, name := range []string{"a", "b", "c"} {
		d.request(createOp(name, 64, 0))
	}
	var file bytes.Buffer
	if err := d.WriteBackup(&file, &blixardv1.BackupHeader{Version: "v"}); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	h, s, err := ReadBackup(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	if h.ClusterId != "c" || h.Generation != 1 || h.Vms != 3 || len(h.Nodes) != 1 || h.Version != "v" || h.Revision != d.Revision() {
		t.Errorf("header %v", h)
	}
	if !proto.Equal(s.Encode(), d.Encode()) || s.Hash() != d.Hash() {
		t.Error("another state came back")
	}
	bad := func(what string, b []byte) {
		t.Helper()
		if _, s, err := ReadBackup(bytes.NewReader(b)); !errors.Is(err, ErrBackup) || s != nil {
			t.Errorf("%s: %v, %v", what, s != nil, err)
		}
	}
	for n := range whole {
		bad("cut", whole[:n])
	}
	bad("longer", append(bytes.Clone(whole), 0))
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			if _, _, err := ReadBackup(bytes.NewReader(b)); err == nil {
				t.Fatalf("bit %d of byte %d is another, and it is read", bit, i)
			}
		}
	}
}
