package cluster

import (
	"bytes"
	"encoding/binary"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A request id is a UUIDv7, so ids sort by the time at which they were made.
// The answer to a mutation is kept for a window of *logged* time, and for no
// more than maxRemembered mutations. What is forgotten leaves a floor behind:
// the highest forgotten id of its principal. An id at or below the floor that
// is not remembered may have been executed once, so it is refused; the clocks
// of clients decide nothing else.
const maxRemembered = 200_000

func dedupeKey(cmd *blixardv1.Command) string {
	return dedupePrefix + cmd.GetPrincipal() + "\x00" + cmd.GetRequestId()
}

// recall returns the first answer to a repeated request, or a refusal, or nil
// for a request that is new.
func (s *State) recall(cmd *blixardv1.Command) *blixardv1.Response {
	if cmd.GetRequestId() == "" {
		return nil
	}
	if d := get[*blixardv1.DedupeRecord](s, dedupeKey(cmd)); d != nil {
		if !bytes.Equal(d.PayloadHash, cmd.PayloadHash) {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_REUSED,
				"the request id was used before, for another request", "use a new request id")
		}
		return d.Response
	}
	floor := get[*blixardv1.DedupeFloor](s, floorPrefix+cmd.GetPrincipal())
	if floor != nil && cmd.GetRequestId() <= floor.RequestId {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_REQUEST_ID_EXPIRED,
			"the request id is older than what the cluster remembers: the request may have been executed",
			"look whether it was; then use a new request id, and check this machine's clock")
	}
	return nil
}

func (s *State) remember(cmd *blixardv1.Command, resp *blixardv1.Response) {
	if cmd.GetRequestId() == "" {
		return
	}
	key := dedupeKey(cmd)
	s.put(key, &blixardv1.DedupeRecord{
		Key: key[len(dedupePrefix):], PayloadHash: cmd.PayloadHash, Response: resp,
		LoggedTime: s.meta.LoggedTime, Index: s.meta.Applied,
	})
}

// forget drops what has left the window, a few at a time.
func (s *State) forget() {
	window := uint64(s.meta.GetSettings().GetDedupeWindowMs()) * 1e6
	for range 16 {
		age, key, ok := s.old.Min()
		if !ok || loggedAt(age)+window >= s.meta.LoggedTime && s.old.Len() <= maxRemembered {
			return
		}
		d := get[*blixardv1.DedupeRecord](s, key)
		s.del(key)
		principal, id := splitDedupeKey(d.Key)
		if f := get[*blixardv1.DedupeFloor](s, floorPrefix+principal); f == nil || f.RequestId < id {
			s.put(floorPrefix+principal, &blixardv1.DedupeFloor{Principal: principal, RequestId: id})
		}
	}
}

// ageKey orders what is remembered: oldest first.
func ageKey(d *blixardv1.DedupeRecord) string { return be(d.LoggedTime) + be(d.Index) }

func loggedAt(age string) uint64 { return binary.BigEndian.Uint64([]byte(age[:8])) }

func splitDedupeKey(key string) (principal, id string) {
	i := bytes.LastIndexByte([]byte(key), 0)
	return key[:i], key[i+1:]
}
