package rpc

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// NewRequestID makes a UUIDv7: ordered by time, which lets the cluster forget
// old ones and still refuse them.
func NewRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// maxAhead bounds how far in the future a request id may lie. One that lies far
// ahead would, once forgotten, make the cluster refuse all that come after it.
const maxAhead = 10 * time.Minute

// requestID returns a given id in its canonical form, or a new one.
func requestID(given string, now time.Time) (string, error) {
	const advice = "leave it empty and the server makes one, or give a UUIDv7 such as "
	if given == "" {
		return NewRequestID(), nil
	}
	id := strings.ToLower(given)
	b, ok := parseUUID(id)
	if !ok || b[6]>>4 != 7 || b[8]>>6 != 2 {
		return "", refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "request_id", fmt.Sprintf("%.80q is no UUIDv7", given), advice+NewRequestID())
	}
	var ms int64
	for _, x := range b[:6] {
		ms = ms<<8 | int64(x)
	}
	if made := time.UnixMilli(ms); made.After(now.Add(maxAhead)) {
		return "", refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "request_id",
			fmt.Sprintf("it was made at %s, which is more than 10 minutes ahead of this server's clock (%s)",
				made.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
			"set the clocks of both machines, then use a new id")
	}
	return id, nil
}

// parseUUID reads 8-4-4-4-12 hexadecimal digits.
func parseUUID(s string) (b [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return b, false
	}
	n, err := hex.Decode(b[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	return b, err == nil && n == len(b)
}
