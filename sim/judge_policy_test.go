package sim

import (
	"testing"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// What has ended may be started again as any spec says that its host may have been told
// of, and as no other.
func TestPolicyThatAHostMayHaveBeenTold(t *testing.T) {
	const (
		never  = blixardv1.RestartPolicy_RESTART_POLICY_NEVER
		always = blixardv1.RestartPolicy_RESTART_POLICY_ALWAYS
		onFail = blixardv1.RestartPolicy_RESTART_POLICY_ON_FAILURE
	)
	j := judgePolicy{said: map[string][]said{}}
	for i, p := range []blixardv1.RestartPolicy{never, never, always, always, never, onFail} {
		j.wants(&blixardv1.VM{Uid: "a", SpecGeneration: uint32(i + 1), Spec: &blixardv1.VMSpec{Restart: p}})
	}
	for _, c := range []struct {
		since      uint32
		good, want bool
	}{
		{1, true, true}, {3, true, true}, {4, true, true}, // the fourth says the same
		{5, true, false}, {6, true, false}, {5, false, true}, {6, false, true},
	} {
		if got := j.allows("a", c.since, c.good); got != c.want {
			t.Errorf("since spec %d, ended well %t: %t", c.since, c.good, got)
		}
	}
	if j.allows("b", 0, false) {
		t.Error("nobody has wanted b")
	}
}
