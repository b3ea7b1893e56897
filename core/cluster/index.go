package cluster

import "google.golang.org/protobuf/proto"

func (s *State) index(m proto.Message)   {}
func (s *State) unindex(m proto.Message) {}
