package disktest

import (
	"strings"

	"github.com/blixard/blixard/core"
	"pgregory.net/rapid"
)

// Few keys, so that operations meet; some that differ by little, one as long as
// core.Op allows.
var anyKey = rapid.SampledFrom([]string{
	"a", "a\x00", "aa", "ab", "b", "\x00", "\xff", "\xff\xff", "key/1", "key/10", "key/2", strings.Repeat("k", 1<<10),
})

// Values of all sizes: none, small, several to a page, several pages each.
var anyValue = rapid.OneOf(
	rapid.SampledFrom([]string{"", "x", "yy", strings.Repeat("v", 600)}),
	rapid.Map(rapid.IntRange(0, 20_000), func(n int) string { return strings.Repeat("w", n) }),
)

var anyTable = rapid.Map(rapid.IntRange(0, core.Tables-1), func(n int) core.Table { return core.Table(n) })

// bound is an end of a range: a key, or none.
var bound = rapid.OneOf(rapid.Just(""), anyKey)

var anyOp = rapid.Custom(func(r *rapid.T) core.Op {
	t := anyTable.Draw(r, "table")
	switch kind := rapid.IntRange(0, 9).Draw(r, "kind"); {
	case kind < 2:
		return del(t, anyKey.Draw(r, "key"))
	case kind < 3:
		return delRange(t, bound.Draw(r, "from"), bound.Draw(r, "to"))
	default:
		return put(t, anyKey.Draw(r, "key"), anyValue.Draw(r, "value"))
	}
})
