package disktest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/blixard/blixard/core"
)

// tables is a disk's contents, as naively as it can be kept.
type tables [core.Tables]map[string]string

func (t tables) clone() tables {
	for i := range t {
		t[i] = maps.Clone(t[i])
		if t[i] == nil {
			t[i] = map[string]string{}
		}
	}
	return t
}

// apply returns the contents after b.
func (t tables) apply(b core.Batch) tables {
	t = t.clone()
	for _, op := range b.Ops {
		table := t[op.Table]
		switch {
		case op.Range:
			maps.DeleteFunc(table, func(k, _ string) bool {
				return k >= string(op.Key) && (len(op.End) == 0 || k < string(op.End))
			})
		case op.Value == nil:
			delete(table, string(op.Key))
		default:
			table[string(op.Key)] = string(op.Value)
		}
	}
	return t
}

// diff says how image differs from t; "" when it does not.
func (t tables) diff(image core.Image) string {
	for i, table := range t {
		name := core.Table(i)
		if len(image[i]) != len(table) {
			return fmt.Sprintf("table %s has %d records, not %d", name, len(image[i]), len(table))
		}
		for n, key := range slices.Sorted(maps.Keys(table)) {
			got := image[i][n]
			switch {
			case string(got.Key) != key:
				return fmt.Sprintf("table %s has key %.40q where %.40q belongs", name, got.Key, key)
			case got.Value == nil:
				return fmt.Sprintf("table %s has nil under %.40q: an empty value is a value", name, key)
			case !bytes.Equal(got.Value, []byte(table[key])):
				return fmt.Sprintf("table %s has %.40q under %.40q, not %.40q", name, got.Value, key, table[key])
			}
		}
	}
	return ""
}
