package fuzz

import (
	"bytes"
	"testing"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// FuzzBackup gives anything to the reader of backups: it is refused, or it is a
// state that can be written down again and restored.
func FuzzBackup(f *testing.F) {
	var file bytes.Buffer
	if err := founded().WriteBackup(&file, &blixardv1.BackupHeader{Version: "v"}); err != nil {
		f.Fatal(err)
	}
	whole := file.Bytes()
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, s, err := cluster.ReadBackup(bytes.NewReader(b))
		if err != nil {
			if s != nil {
				t.Error("a state came with an error")
			}
			return
		}
		if err := s.WriteBackup(&bytes.Buffer{}, &blixardv1.BackupHeader{}); err != nil {
			t.Error(err)
		}
	})
}
