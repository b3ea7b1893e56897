package cluster

import (
	"slices"

	"github.com/blixard/blixard/core/mutant"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// unusedGrace is how long an artifact that nothing needs is kept, in
// nanoseconds of logged time: long enough to upload it and then create a VM.
const unusedGrace = 3600 * 1e9

// artifacts are what a spec needs.
func artifacts(spec *blixardv1.VMSpec) (list []*blixardv1.Artifact) {
	img := spec.GetImage()
	for _, a := range []*blixardv1.Artifact{img.GetKernel(), img.GetInitrd()} {
		if a != nil {
			list = append(list, a)
		}
	}
	for _, d := range img.GetDisks() {
		if d.Source != nil {
			list = append(list, d.Source)
		}
	}
	return append(list, nixArtifacts(spec)...)
}

// inputs are what a spec and its pins need.
func inputs(spec *blixardv1.VMSpec, pins *blixardv1.Pins) []*blixardv1.Artifact {
	list := artifacts(spec)
	if pins.GetLock() != nil {
		list = append(list, pins.Lock)
	}
	return list
}

// missing refuses what needs an artifact that the cluster does not have.
func (s *State) missing(list []*blixardv1.Artifact) *blixardv1.Response {
	for _, a := range list {
		if s.Artifact(a.Digest) == nil {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION,
				"the cluster does not have the artifact sha256:"+a.Digest, "upload it with 'blixard image push'")
		}
	}
	return nil
}

// refer counts references to artifacts, up or down.
func (s *State) refer(e *entry, list []*blixardv1.Artifact, sign int) {
	for _, a := range list {
		old := s.Artifact(a.Digest)
		if old == nil || mutant.On("NeedUncounted") && sign > 0 && old.References > 0 {
			continue
		}
		r := clone(old)
		r.References = uint32(int(r.References) + sign)
		s.putArtifact(e, r)
	}
}

func (s *State) putArtifact(e *entry, r *blixardv1.ArtifactRecord) {
	switch {
	case r.References > 0:
		r.UnusedSince = 0
	case r.UnusedSince == 0:
		r.UnusedSince = max(s.meta.LoggedTime, 1)
	}
	s.put(artifactKey(r.Digest), r)
}

func (s *State) announce(e *entry, op *blixardv1.AnnounceOp) *blixardv1.Response {
	if err := ValidateDigest("digest", op.Digest); err != nil {
		return &blixardv1.Response{Error: err}
	}
	if s.Node(op.NodeId) == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "no node has that id", "")
	}
	old := s.Artifact(op.Digest)
	if old == nil {
		if op.Gone {
			return nil
		}
		old = &blixardv1.ArtifactRecord{Digest: op.Digest, Size: op.Size, CreateTime: e.time()}
	}
	if old.Size != op.Size && !op.Gone {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "the artifact is known with another size", "")
	}
	r := clone(old)
	at, has := slices.BinarySearch(r.Nodes, op.NodeId)
	switch {
	case has == !op.Gone && old.Revision != 0:
		return artifactResponse(old)
	case op.Gone:
		r.Nodes = slices.Delete(r.Nodes, at, at+1)
	default:
		r.Nodes = slices.Insert(r.Nodes, at, op.NodeId)
	}
	s.putArtifact(e, r)
	return artifactResponse(r)
}

func (s *State) tag(e *entry, op *blixardv1.TagOp) *blixardv1.Response {
	old := s.Artifact(op.Digest)
	if old == nil {
		return refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "the cluster has no artifact with that digest", "upload it with 'blixard image push'")
	}
	if op.Name != "" {
		if err := ValidateName(op.Name); err != nil {
			return &blixardv1.Response{Error: err}
		}
	}
	// A name belongs to one artifact: the newest.
	var holder *blixardv1.ArtifactRecord
	s.Artifacts(func(a *blixardv1.ArtifactRecord) bool {
		if op.Name != "" && a.Name == op.Name {
			holder = a
		}
		return holder == nil
	})
	if holder != nil && holder.Digest != op.Digest {
		h := clone(holder)
		h.Name = ""
		s.putArtifact(e, h)
	}
	r := clone(old)
	r.Name = op.Name
	s.putArtifact(e, r)
	return artifactResponse(r)
}

// CollectDue says whether something could be collected at a logged time.
func (s *State) CollectDue(loggedTime uint64) bool {
	_, digest, ok := s.idle.Min()
	return ok && s.Artifact(digest).UnusedSince+unusedGrace < loggedTime || ok && mutant.On("CollectedEarly")
}

// collect forgets artifacts that nothing has needed for the grace time. Their
// holders delete what the cluster does not know.
func (s *State) collect(e *entry) *blixardv1.Response {
	for range placePerEntry {
		if !s.CollectDue(s.meta.LoggedTime) {
			return nil
		}
		_, digest, _ := s.idle.Min()
		s.del(artifactKey(digest))
		s.event(e, "ArtifactCollected", "", "", "sha256:%s was not needed for an hour", digest)
	}
	return nil
}
