package vmm

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// What a build says on its way out reaches the log of the cluster: it must not
// be what no message can carry.
func TestAnyErrorCanBeSaid(t *testing.T) {
	u := NewUnit("u1")
	u.order, u.orderID = Build, 1
	u.Finish(1, Done{Action: 1, UID: "u1", Err: "not text: \xff\xfe" + strings.Repeat("x", 1<<20)})
	b, err := proto.Marshal(u.Observation())
	if err != nil || len(b) > 5000 {
		t.Fatal(len(b), err)
	}
}
