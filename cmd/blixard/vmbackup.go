package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A VM's backup is a file:
//
//	"blixard vm backup 1\n"  VMBackupHeader  VMBackupPart ... VMBackupPart  sha256 of all before
//
// where messages are delimited by their length, and the last part is the end. It is
// read as it is written: a part at a time, whatever its size.
const vmBackupMagic = "blixard vm backup 1\n"

var errVMBackup = errors.New("this is no whole backup of a VM")

// backupWriter writes such a file.
type backupWriter struct {
	to  *bufio.Writer
	sum hash.Hash
	all io.Writer
}

func newBackupWriter(w io.Writer, h *blixardv1.VMBackupHeader) (*backupWriter, error) {
	b := &backupWriter{to: bufio.NewWriter(w), sum: sha256.New()}
	b.all = io.MultiWriter(b.to, b.sum)
	if _, err := io.WriteString(b.all, vmBackupMagic); err != nil {
		return nil, err
	}
	return b, b.message(h)
}

func (b *backupWriter) message(m proto.Message) error {
	_, err := protodelim.MarshalTo(b.all, m)
	return err
}

func (b *backupWriter) disk(p *blixardv1.VolumeData) error {
	return b.message(&blixardv1.VMBackupPart{Part: &blixardv1.VMBackupPart_Disk{Disk: p}})
}

func (b *backupWriter) file(p *blixardv1.VolumeData) error {
	return b.message(&blixardv1.VMBackupPart{Part: &blixardv1.VMBackupPart_File{File: p}})
}

func (b *backupWriter) end() error {
	err := b.message(&blixardv1.VMBackupPart{Part: &blixardv1.VMBackupPart_End{End: true}})
	if err == nil {
		_, err = b.to.Write(b.sum.Sum(nil))
	}
	if err == nil {
		err = b.to.Flush()
	}
	return err
}

// backupReader reads one.
type backupReader struct {
	r      *cluster.Summed
	head   *blixardv1.VMBackupHeader
	within bool // the disk that nextOf looks for
}

func newBackupReader(r io.Reader) (*backupReader, error) {
	b := &backupReader{r: cluster.NewSummed(r), head: &blixardv1.VMBackupHeader{}}
	if !b.r.Begins(vmBackupMagic) {
		return nil, fmt.Errorf("%w: it does not begin as one of this version does", errVMBackup)
	}
	if err := b.r.Message(b.head, 4<<20); err != nil {
		return nil, fmt.Errorf("%w: its header does not decode: %w", errVMBackup, err)
	}
	return b, nil
}

// next is the next part; io.EOF after the last, when the sum of all is right.
func (b *backupReader) next() (*blixardv1.VMBackupPart, error) {
	p := &blixardv1.VMBackupPart{}
	if err := b.r.Message(p, 1<<20); err != nil {
		return nil, fmt.Errorf("%w: a part of it does not decode: %w", errVMBackup, err)
	}
	if p.Part == nil {
		return nil, fmt.Errorf("%w: a part that nobody knows", errVMBackup)
	}
	if !p.GetEnd() {
		return p, nil
	}
	if !b.r.Ends() {
		return nil, fmt.Errorf("%w: its checksum is not that of what it holds", errVMBackup)
	}
	return nil, io.EOF
}

// nextOf is the next part of a disk. Of a snapshot's files, what is not of that disk, and
// comes before, is passed over.
func (b *backupReader) nextOf(disk string) (*blixardv1.VolumeData, error) {
	for {
		p, err := b.next()
		if err != nil {
			return nil, errors.Join(err, errVMBackup)
		}
		if p.GetDisk() != nil {
			return p.GetDisk(), nil
		}
		if p.GetFile() == nil {
			return nil, errVMBackup
		}
		if h := p.GetFile().GetHeader(); h != nil {
			b.within = h.GetName() == "disks/"+disk+".raw"
		}
		if b.within {
			return p.GetFile(), nil
		}
	}
}

// check reads all of a backup.
func checkVMBackup(r io.Reader) (*blixardv1.VMBackupHeader, error) {
	b, err := newBackupReader(r)
	for err == nil {
		_, err = b.next()
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b.head, nil
}
