package cluster

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A backup is a file of a whole state:
//
//	"blixard backup 1\n"  BackupHeader  Record ... Record  sha256 of all that is before
//
// where messages are delimited by their length. It holds what the cluster knows of
// its VMs, and none of their bytes.
const backupMagic = "blixard backup 1\n"

// ErrBackup marks what is no backup, or not a whole one.
var ErrBackup = errors.New("this is no whole backup")

// WriteBackup writes the state down. The header's fields that the state knows are
// filled in.
func (s *State) WriteBackup(to io.Writer, header *blixardv1.BackupHeader) error {
	sum := sha256.New()
	w := bufio.NewWriter(io.MultiWriter(to, sum))
	h := clone(header)
	m := s.meta
	h.ClusterId, h.Generation, h.Revision, h.Level = m.ClusterId, m.Generation, m.Applied, m.Settings.GetLevel()
	h.Records = uint64(s.records.Len())
	s.Nodes(func(n *blixardv1.Node) bool {
		h.Nodes = append(h.Nodes, &blixardv1.Node{Id: n.Id, Name: n.Name, Address: n.Address, Server: n.Server})
		return true
	})
	s.VMs("", func(*blixardv1.VM) bool {
		h.Vms++
		return true
	})
	if _, err := w.WriteString(backupMagic); err != nil {
		return err
	}
	if err := writeDelimited(w, h); err != nil {
		return err
	}
	var failed error
	s.records.Scan(func(k string, r record) bool {
		failed = writeDelimited(w, &blixardv1.Record{Key: []byte(k), Value: blixardv1.Encode(r.msg)})
		return failed == nil
	})
	if failed == nil {
		failed = w.Flush()
	}
	if failed == nil {
		_, failed = to.Write(sum.Sum(nil))
	}
	return failed
}

func writeDelimited(w io.Writer, m proto.Message) error {
	_, err := protodelim.MarshalOptions{MarshalOptions: proto.MarshalOptions{Deterministic: true}}.MarshalTo(w, m)
	return err
}

// mostRecord bounds one message of a backup, in bytes.
const mostRecord = 64 << 20

// ReadBackup reads what WriteBackup has written, and nothing else: a part that is
// missing, changed or too much is an error.
func ReadBackup(from io.Reader) (*blixardv1.BackupHeader, *State, error) {
	r := NewSummed(from)
	if !r.Begins(backupMagic) {
		return nil, nil, fmt.Errorf("%w: it does not begin as one of this version does", ErrBackup)
	}
	h := &blixardv1.BackupHeader{}
	if err := r.Message(h, mostRecord); err != nil {
		return nil, nil, fmt.Errorf("%w: its header does not decode: %w", ErrBackup, err)
	}
	var failed error
	read := uint64(0)
	state, err := Load(func(yield func(key, value []byte) bool) {
		for ; read < h.Records; read++ {
			rec := &blixardv1.Record{}
			if failed = r.Message(rec, mostRecord); failed != nil || !yield(rec.Key, rec.Value) {
				return
			}
		}
	})
	if failed != nil {
		return nil, nil, fmt.Errorf("%w: record %d of %d does not decode: %w", ErrBackup, read+1, h.Records, failed)
	}
	if !r.Ends() {
		return nil, nil, fmt.Errorf("%w: its checksum is not that of what it holds", ErrBackup)
	}
	if err != nil {
		return nil, nil, err
	}
	if m := state.meta; m.GetClusterId() == "" || m.ClusterId != h.ClusterId || m.Applied != h.Revision {
		return nil, nil, fmt.Errorf("%w: its header is of another state than its records", ErrBackup)
	}
	return h, state, nil
}

// Summed reads a file of messages, delimited by their length, that ends with the
// SHA-256 of all before.
type Summed struct {
	r   *bufio.Reader
	sum hash.Hash
}

// NewSummed reads such a file from its beginning.
func NewSummed(r io.Reader) *Summed {
	return &Summed{bufio.NewReaderSize(r, 1<<20), sha256.New()}
}

func (s *Summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	return n, err
}

// ReadByte is what reading a length asks for.
func (s *Summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
	}
	return b, err
}

// Begins says that what is next is magic.
func (s *Summed) Begins(magic string) bool {
	b := make([]byte, len(magic))
	_, err := io.ReadFull(s, b)
	return err == nil && string(b) == magic
}

// Message reads the next one, of at most so many bytes.
func (s *Summed) Message(m proto.Message, most int64) error {
	err := protodelim.UnmarshalOptions{MaxSize: most}.UnmarshalFrom(s, m)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends here")
	}
	return err
}

// Ends says that nothing follows but the sum, and that it is right.
func (s *Summed) Ends() bool {
	want := s.sum.Sum(nil)
	got := make([]byte, len(want)+1)
	n, _ := io.ReadFull(s.r, got)
	return n == len(want) && string(got[:n]) == string(want)
}
