package bolt

import (
	"bytes"
	"fmt"

	"github.com/blixard/blixard/core"
	"go.etcd.io/bbolt"
)

// maxKeyLen is what core.Op promises.
const maxKeyLen = 1 << 10

// check says why no disk can hold op.
func check(op core.Op) error {
	switch {
	case op.Table >= core.Tables:
		return fmt.Errorf("there is no table %d", op.Table)
	case len(op.Key) > maxKeyLen || len(op.End) > maxKeyLen:
		return fmt.Errorf("a key has more than %d bytes", maxKeyLen)
	case !isRange(op) && len(op.Key) == 0:
		return fmt.Errorf("the key is empty")
	case int64(len(op.Value)) > bbolt.MaxValueSize-crcLen:
		return fmt.Errorf("the value has %d bytes", len(op.Value))
	}
	return nil
}

func isRange(op core.Op) bool { return op.Range || len(op.End) > 0 }

// apply makes the changes of group in tx, in order, and keeps s with them.
func apply(tx *bbolt.Tx, s *summaries, group []core.Batch) error {
	for _, b := range group {
		for _, op := range b.Ops {
			if err := applyOp(tx, &s[op.Table], op); err != nil {
				return fmt.Errorf("table %s: %w", op.Table, err)
			}
		}
	}
	return s.put(tx.Bucket(ownBucket))
}

func applyOp(tx *bbolt.Tx, s *summary, op core.Op) error {
	switch {
	case isRange(op) && len(op.Key) == 0 && len(op.End) == 0:
		return clearTable(tx, s, op.Table)
	case isRange(op):
		return removeRange(table(tx, op.Table), s, op.Key, op.End)
	case op.Value == nil:
		return remove(table(tx, op.Table), s, op.Key)
	default:
		return put(table(tx, op.Table), s, op)
	}
}

func table(tx *bbolt.Tx, t core.Table) *bbolt.Bucket {
	b := tx.Bucket(bucketName(t))
	if t == core.Log {
		// Entries come in the order of their keys: leave no room between them.
		b.FillPercent = 1
	}
	return b
}

func put(b *bbolt.Bucket, s *summary, op core.Op) error {
	if err := forget(b, s, op.Key); err != nil {
		return err
	}
	stored, crc := seal(op.Table, op.Key, op.Value)
	s.add(crc)
	return b.Put(op.Key, stored)
}

func remove(b *bbolt.Bucket, s *summary, key []byte) error {
	if err := forget(b, s, key); err != nil {
		return err
	}
	return b.Delete(key)
}

// forget takes the record of key, if there is one, out of the summary.
func forget(b *bbolt.Bucket, s *summary, key []byte) error {
	old := b.Get(key)
	if old == nil {
		return nil
	}
	crc, err := crcOf(old)
	if err != nil {
		return err
	}
	s.drop(crc)
	return nil
}

// removeRange deletes [from, to); an empty to is the end. The keys are collected
// first: a bbolt cursor skips records when it deletes as it goes.
func removeRange(b *bbolt.Bucket, s *summary, from, to []byte) error {
	var keys [][]byte
	c := b.Cursor()
	for k, v := c.Seek(from); k != nil && (len(to) == 0 || bytes.Compare(k, to) < 0); k, v = c.Next() {
		crc, err := crcOf(v)
		if err != nil {
			return err
		}
		s.drop(crc)
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// clearTable frees all pages at once instead of deleting record by record.
func clearTable(tx *bbolt.Tx, s *summary, t core.Table) error {
	*s = summary{}
	if err := tx.DeleteBucket(bucketName(t)); err != nil {
		return err
	}
	_, err := tx.CreateBucket(bucketName(t))
	return err
}
