package core

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/vmm"
	"github.com/blixard/blixard/vmm/shim"
)

// record is an input as it is written down: one line of JSON. What is a
// protobuf message stays its encoding.
type record struct {
	Boot, Wall int64
	Kind       string
	Message    []byte                `json:",omitempty"` // envelope, facts or command
	Reports    []vmm.Report          `json:",omitempty"`
	Done       []vmm.Done            `json:",omitempty"`
	Pages      []shim.Page           `json:",omitempty"`
	Prepared   []*blixardv1.Prepared `json:",omitempty"`
	Volumes    []byte                `json:",omitempty"` // an inventory
	Kept       uint64                `json:",omitempty"`
	Request    *Request              `json:",omitempty"`
	Number     uint64                `json:",omitempty"` // peer, recipient, sequence, lapsed epoch
	Flag       bool                  `json:",omitempty"` // ok, inventory
}

// Encode writes an input, and when it came, down as one line.
func Encode(at Time, in Input) ([]byte, error) {
	r := record{Boot: at.Boot, Wall: at.Wall}
	switch in := in.(type) {
	case Tick:
		r.Kind = "Tick"
	case Receive:
		r.Kind, r.Message = "Receive", encode(Message{Envelope: proto.CloneOf(in.Envelope), Raft: in.Raft}.Pack())
	case PeerLost:
		r.Kind, r.Number = "PeerLost", in.Peer
	case SnapshotSent:
		r.Kind, r.Number, r.Flag = "SnapshotSent", in.To, in.OK
	case Wrote:
		r.Kind, r.Number = "Wrote", in.Seq
	case Observed:
		r.Kind, r.Flag, r.Number, r.Reports, r.Done, r.Prepared = "Observed", in.Inventory, in.Lapsed, in.Reports, in.Done, in.Prepared
		r.Pages, r.Kept = in.Pages, in.Kept
		if in.Volumes != nil {
			r.Volumes = append(encode(in.Volumes), 0)
		}
		if in.Facts != nil {
			r.Message = append(encode(in.Facts), 0) // told apart from none
		}
	case Request:
		r.Kind = "Request"
		if in.Command != nil {
			r.Message = append(encode(in.Command), 0)
		}
		in.Command = nil
		r.Request = &in
	default:
		return nil, fmt.Errorf("core: an input of type %T cannot be written down", in)
	}
	return json.Marshal(r)
}

// Decode reads what Encode has written. Played back into a node opened from the
// same image with the same Config, a record gives the same outputs.
func Decode(line []byte) (Time, Input, error) {
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		return Time{}, nil, fmt.Errorf("core: a recorded input does not decode: %w", err)
	}
	in, err := r.input()
	if err != nil {
		return Time{}, nil, fmt.Errorf("core: a recorded %s does not decode: %w", r.Kind, err)
	}
	return Time{Boot: r.Boot, Wall: r.Wall}, in, nil
}

func (r *record) input() (Input, error) {
	switch r.Kind {
	case "Tick":
		return Tick{}, nil
	case "Receive":
		e := &blixardv1.Envelope{}
		if err := proto.Unmarshal(r.Message, e); err != nil {
			return nil, err
		}
		return Unpack(e)
	case "PeerLost":
		return PeerLost{r.Number}, nil
	case "SnapshotSent":
		return SnapshotSent{r.Number, r.Flag}, nil
	case "Wrote":
		return Wrote{r.Number}, nil
	case "Observed":
		in := Observed{Inventory: r.Flag, Lapsed: r.Number, Reports: r.Reports, Done: r.Done, Prepared: r.Prepared, Pages: r.Pages, Kept: r.Kept}
		if len(r.Volumes) > 0 {
			in.Volumes = &blixardv1.VolumeInventory{}
			if err := proto.Unmarshal(r.Volumes[:len(r.Volumes)-1], in.Volumes); err != nil {
				return nil, err
			}
		}
		if len(r.Message) > 0 {
			in.Facts = &blixardv1.HostFacts{}
			return in, proto.Unmarshal(r.Message[:len(r.Message)-1], in.Facts)
		}
		return in, nil
	case "Request":
		if r.Request == nil {
			return nil, fmt.Errorf("it is empty")
		}
		in := *r.Request
		if len(r.Message) > 0 {
			in.Command = &blixardv1.Command{}
			return in, proto.Unmarshal(r.Message[:len(r.Message)-1], in.Command)
		}
		return in, nil
	}
	return nil, fmt.Errorf("there is no input of the kind %q", r.Kind)
}
