package rpc

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

func TestAVMsLife(t *testing.T) {
	n := &node{}
	w := serve(t, noTLS, n)
	w.boot(n.id)
	c, ctx := dial(t, nil, n), t.Context()
	create := &blixardv1.CreateRequest{Name: "web-1", Spec: processSpec(), RequestId: strings.ToUpper(NewRequestID())}
	got, err := c.VM.Create(ctx, connect.NewRequest(create))
	if err != nil {
		t.Fatal(err)
	}
	if id := got.Header().Get(RequestIDHeader); id != strings.ToLower(create.RequestId) {
		t.Errorf("request id %q comes back as %q", create.RequestId, id)
	}
	again, err := c.VM.Create(ctx, connect.NewRequest(create))
	if err != nil || again.Msg.Vm.Uid != got.Msg.Vm.Uid {
		t.Fatalf("the same request twice: %v, %v", again, err)
	}
	create.Spec.Vcpus = 2
	if _, err = c.VM.Create(ctx, connect.NewRequest(create)); connect.CodeOf(err) != connect.CodeAborted {
		t.Fatalf("a request id with another payload: %v", err)
	}
	_, err = c.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: "web-1", Spec: processSpec()}))
	if d, id := Refused(err); connect.CodeOf(err) != connect.CodeAlreadyExists || d.GetCode() != blixardv1.ErrorCode_ERROR_CODE_ALREADY_EXISTS || id == "" {
		t.Fatalf("a name twice: %v, %v, %q", err, d, id)
	}
	get, err := c.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: "web-1"}))
	if err != nil || get.Msg.Node != "n1" {
		t.Fatalf("get: %v, %v", get, err)
	}
	stop, err := c.VM.Stop(ctx, connect.NewRequest(&blixardv1.StopRequest{Name: "web-1"}))
	if err != nil || stop.Msg.Vm.Run {
		t.Fatalf("stop: %v, %v", stop, err)
	}
	start, err := c.VM.Start(ctx, connect.NewRequest(&blixardv1.StartRequest{Name: "web-1"}))
	if err != nil || !start.Msg.Vm.Run {
		t.Fatalf("start: %v, %v", start, err)
	}
	restart, err := c.VM.Restart(ctx, connect.NewRequest(&blixardv1.RestartRequest{Name: "web-1"}))
	if err != nil || restart.Msg.Vm.RunGeneration != start.Msg.Vm.RunGeneration+1 {
		t.Fatalf("restart: %v, %v", restart, err)
	}
	explain, err := c.VM.Explain(ctx, connect.NewRequest(&blixardv1.ExplainRequest{Name: "web-1"}))
	if err != nil || len(explain.Msg.Verdicts) != 1 {
		t.Fatalf("explain: %v, %v", explain, err)
	}
	del, err := c.VM.Delete(ctx, connect.NewRequest(&blixardv1.DeleteRequest{Name: "web-1"}))
	if err != nil || !del.Msg.Vm.Deleting {
		t.Fatalf("delete: %v, %v", del, err)
	}
	for _, cmd := range w.cmds {
		if cmd.RequestId != "" && (cmd.Principal != "anonymous" || len(cmd.PayloadHash) != 32) {
			t.Errorf("the edge left out something: %v", cmd)
		}
	}
}

func TestNodesAndMembers(t *testing.T) {
	a, b := &node{}, &node{hostOnly: true}
	serve(t, noTLS, a, b)
	c, ctx := dial(t, nil, a), t.Context()
	list, err := c.Node.List(ctx, connect.NewRequest(&blixardv1.NodeServiceListRequest{}))
	if err != nil || len(list.Msg.Nodes) != 2 {
		t.Fatalf("list: %v, %v", list, err)
	}
	cordon, err := c.Node.Cordon(ctx, connect.NewRequest(&blixardv1.CordonRequest{Name: "n2"}))
	if err != nil || !cordon.Msg.Node.Cordoned {
		t.Fatalf("cordon: %v, %v", cordon, err)
	}
	uncordon, err := c.Node.Uncordon(ctx, connect.NewRequest(&blixardv1.UncordonRequest{Name: "n2"}))
	if err != nil || uncordon.Msg.Node.Cordoned {
		t.Fatalf("uncordon: %v, %v", uncordon, err)
	}
	if _, err := c.Node.Get(ctx, connect.NewRequest(&blixardv1.NodeServiceGetRequest{Name: "nope"})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a node that is not there: %v", err)
	}
	add, err := c.Cluster.AddMember(ctx, connect.NewRequest(&blixardv1.AddMemberRequest{Name: "n3", Address: "127.0.0.1:1", Host: true, Level: 1}))
	if err != nil || add.Msg.NodeId == 0 || add.Msg.ClusterId != "test" || len(add.Msg.Servers) != 1 {
		t.Fatalf("add: %v, %v", add, err)
	}
	for _, address := range []string{"", "x", "x:0", ":7420", "x:99999", "x:y"} {
		if _, err := c.Cluster.AddMember(ctx, connect.NewRequest(&blixardv1.AddMemberRequest{Name: "n4", Address: address, Host: true})); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("address %q: %v", address, err)
		}
	}
	if _, err := c.Cluster.RemoveMember(ctx, connect.NewRequest(&blixardv1.RemoveMemberRequest{Name: "n3"})); err != nil {
		t.Error(err)
	}
	st, err := c.Cluster.Status(ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil || st.Msg.StateHash == "" || st.Msg.Summary == "" || st.Msg.Settings == nil {
		t.Errorf("status: %v, %v", st, err)
	}
	if _, err := c.Cluster.Init(ctx, connect.NewRequest(&blixardv1.InitRequest{})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("init of a member: %v", err)
	}
}

func TestBeforeTheCluster(t *testing.T) {
	n := &node{}
	serve(t, noTLS, n)
	n.outside = true
	c, ctx := dial(t, nil, n), t.Context()
	_, err := c.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: "a"}))
	if d, _ := Refused(err); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(d.GetAdvice(), "cluster init") {
		t.Errorf("get: %v", err)
	}
	st, err := c.Cluster.Status(ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil || st.Msg.ClusterId != "" || !strings.Contains(st.Msg.Summary, "cluster init") {
		t.Errorf("status: %v, %v", st, err)
	}
	if _, err := c.Cluster.Init(ctx, connect.NewRequest(&blixardv1.InitRequest{Settings: &blixardv1.Settings{LeaseMs: 1}})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("init with nonsense: %v", err)
	}
	if _, err := c.Cluster.Join(ctx, connect.NewRequest(&blixardv1.JoinRequest{Server: "nowhere"})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("join nowhere: %v", err)
	}
	if _, err := c.Cluster.Init(ctx, connect.NewRequest(&blixardv1.InitRequest{})); err != nil {
		t.Errorf("init: %v", err)
	}
}

func TestListPages(t *testing.T) {
	n := &node{}
	w := serve(t, noTLS, n)
	c, ctx := dial(t, nil, n), t.Context()
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		spec := processSpec()
		spec.Labels = map[string]string{"odd": map[bool]string{true: "yes", false: "no"}[name == "a" || name == "c" || name == "e"]}
		w.apply(&blixardv1.Command{Op: &blixardv1.Command_CreateVm{CreateVm: &blixardv1.CreateVMOp{Name: name, Spec: spec}}})
	}
	pages := func(labels map[string]string) (names string) {
		req := &blixardv1.ListRequest{PageSize: 2, Labels: labels}
		for {
			got, err := c.VM.List(ctx, connect.NewRequest(req))
			if err != nil {
				t.Fatal(err)
			}
			for _, vm := range got.Msg.Vms {
				names += vm.Name
			}
			if req.PageToken = got.Msg.NextPageToken; req.PageToken == "" {
				return names
			}
			names += " "
		}
	}
	if got := pages(nil); got != "ab cd e" {
		t.Errorf("pages %q", got)
	}
	if got := pages(map[string]string{"odd": "no"}); got != "bd" {
		t.Errorf("pages %q", got)
	}
	for _, req := range []*blixardv1.ListRequest{{PageToken: "!"}, {PageToken: "aaaa"}, {PageToken: pageToken("..", 1)}, {PageSize: 1001}, {Labels: map[string]string{"": ""}}} {
		if _, err := c.VM.List(ctx, connect.NewRequest(req)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func post(t *testing.T, url, contentType, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestCurl(t *testing.T) {
	n := &node{}
	serve(t, noTLS, n)
	base := "http://" + n.address
	for _, c := range []struct {
		path, body string
		status     int
		has        string
	}{
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"a","spec":{"process":{"argv":["/bin/true"]}}}`, 200, `"uid"`},
		{blixardv1connect.VMServiceGetProcedure, `{"name":"a"}`, 200, `"name":"a"`},
		{blixardv1connect.VMServiceGetProcedure, `{"name":"b"}`, 404, `"not_found"`},
		{blixardv1connect.VMServiceGetProcedure, `{"nome":"b"}`, 400, `nome`},
		{blixardv1connect.VMServiceGetProcedure, `{"name":"../etc"}`, 400, `lower-case`},
		{blixardv1connect.VMServiceGetProcedure, `{"name":`, 400, ``},
		{blixardv1connect.VMServiceGetProcedure, ``, 400, `empty`},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"c","spec":{"vcpu":1}}`, 400, `vcpu`},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"c","spec":{"vcpus":-1}}`, 400, `-1`},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"c","spec":{"vcpus":1e99}}`, 400, ``},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"c","spec":{"vcpus":300,"process":{"argv":["/x"]}}}`, 400, `spec.vcpus`},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"c","requestId":"no","spec":{"process":{"argv":["/x"]}}}`, 400, `UUIDv7`},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"c","requestId":"ffffffff-ffff-7fff-bfff-ffffffffffff","spec":{"process":{"argv":["/x"]}}}`, 400, `ahead`},
		{blixardv1connect.VMServiceCreateProcedure, `{"name":"` + strings.Repeat("x", maxRequest) + `"}`, 413, `atmost4194304`},
	} {
		for _, ct := range []string{"application/json", "application/json; charset=utf-8"} {
			status, body := post(t, base+c.path, ct, c.body)
			if strings.HasSuffix(c.path, "Create") && strings.Contains(body, "exists") {
				continue // the second content type
			}
			if status != c.status || !strings.Contains(strings.ReplaceAll(body, " ", ""), strings.ReplaceAll(c.has, " ", "")) {
				t.Errorf("%s %.100s: %d %.300s", c.path, c.body, status, body)
			}
		}
	}
	// NO_SIDE_EFFECTS: also by GET.
	resp, err := http.Get(base + blixardv1connect.VMServiceGetProcedure + `?connect=v1&encoding=json&message=%7B%22name%22%3A%22a%22%7D`)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("GET: %v, %v", resp, err)
	}
	resp.Body.Close()
}

func TestUnknownBinaryField(t *testing.T) {
	n := &node{}
	serve(t, noTLS, n)
	c := dial(t, nil, n)
	spec := processSpec()
	spec.GetProcess().ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	_, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "a", Spec: spec}))
	if d, _ := Refused(err); d.GetField() != "spec.process" {
		t.Errorf("an unknown field: %v", err)
	}
}

func h2c() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}}
}

func TestGRPC(t *testing.T) {
	a, host := &node{}, &node{hostOnly: true}
	serve(t, noTLS, a, host)
	for _, n := range []*node{a, host} {
		c := blixardv1connect.NewVMServiceClient(h2c(), "http://"+n.address, connect.WithGRPC())
		if _, err := c.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: n.name, Spec: processSpec()})); err != nil {
			t.Errorf("%s: %v", n.name, err)
		}
		_, err := c.Get(t.Context(), connect.NewRequest(&blixardv1.GetRequest{Name: "nope"}))
		if d, _ := Refused(err); connect.CodeOf(err) != connect.CodeNotFound || d == nil {
			t.Errorf("%s: %v", n.name, err)
		}
	}
	status, body := post(t, "http://"+a.address+"/grpc.health.v1.Health/Check", "application/json", `{}`)
	if status != 200 || !strings.Contains(body, "SERVING") {
		t.Errorf("health: %d %s", status, body)
	}
}

// A host that is no server passes requests on, to the next server when one is
// down, and answers Status itself.
func TestHostForwards(t *testing.T) {
	a, b, host := &node{}, &node{}, &node{hostOnly: true}
	serve(t, noTLS, a, b, host)
	c, ctx := dial(t, nil, host), t.Context()
	down, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	a.server.Shutdown(down)
	if _, err := c.VM.Create(ctx, connect.NewRequest(&blixardv1.CreateRequest{Name: "a", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	st, err := c.Cluster.Status(ctx, connect.NewRequest(&blixardv1.StatusRequest{}))
	if err != nil || st.Msg.Node != "n3" {
		t.Errorf("status: %v, %v", st, err)
	}
	data := bytes.Repeat([]byte("x"), 3<<20)
	// One of two servers is down, so it cannot be held twice: we do not wait.
	brief, stop := context.WithCancel(ctx)
	defer stop()
	go upload(brief, c, data, digestOf(data), len(data), "")
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := b.blobs.Has(digestOf(data)); ok {
			break
		}
		if time.Since(begun) > time.Minute {
			t.Fatal("the upload through the host did not reach a server")
		}
	}
	stop()
	b.server.Shutdown(down)
	_, err = c.VM.Get(ctx, connect.NewRequest(&blixardv1.GetRequest{Name: "a"}))
	if d, _ := Refused(err); connect.CodeOf(err) != connect.CodeUnavailable || d.GetAdvice() == "" {
		t.Errorf("no server left: %v", err)
	}
}

func TestClientRetriesUnderOneID(t *testing.T) {
	a, b := &node{}, &node{}
	w := serve(t, noTLS, a, b)
	c := dial(t, nil, a, b)
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	time.AfterFunc(300*time.Millisecond, func() {
		w.mu.Lock()
		w.down = false
		w.mu.Unlock()
	})
	if _, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "a", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a.server.Shutdown(ctx)
	for range 3 {
		if _, err := c.VM.Get(t.Context(), connect.NewRequest(&blixardv1.GetRequest{Name: "a"})); err != nil {
			t.Fatal(err)
		}
	}
	b.server.Shutdown(ctx)
	begun := time.Now()
	if _, err := c.VM.Get(t.Context(), connect.NewRequest(&blixardv1.GetRequest{Name: "a"})); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("nobody there: %v", err)
	}
	if took := time.Since(begun); took > defaultPatience*2/3 {
		t.Errorf("it took %s to say that nobody is there", took)
	}
}

// A client that leaves in mid-call ends its own call only.
func TestClientLeaves(t *testing.T) {
	n := &node{}
	w := serve(t, noTLS, n)
	w.boot(n.id)
	c := dial(t, nil, n)
	if _, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "a", Spec: processSpec()})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.VM.Logs(ctx, connect.NewRequest(&blixardv1.LogsRequest{Name: "a", Follow: true}))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodeCanceled {
		t.Errorf("a stream that was left: %v", stream.Err())
	}
	if _, err := c.VM.Get(t.Context(), connect.NewRequest(&blixardv1.GetRequest{Name: "a"})); err != nil {
		t.Error(err)
	}
}

// What only a program can see of a spec is asked before anything is proposed.
func TestSpecIsLookedAt(t *testing.T) {
	n := &node{}
	n.checkVM = func(_ context.Context, spec *blixardv1.VMSpec) error {
		if spec.GetProcess().GetArgv()[0] == "/bad" {
			return refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "spec.process", "line 3: syntax error", "correct it")
		}
		return nil
	}
	w := serve(t, noTLS, n)
	w.boot(n.id)
	c := dial(t, nil, n)
	bad := processSpec()
	bad.GetProcess().Argv[0] = "/bad"
	refused := func(err error) {
		t.Helper()
		if d, _ := Refused(err); connect.CodeOf(err) != connect.CodeInvalidArgument || d.GetField() != "spec.process" || d.GetMessage() != "line 3: syntax error" {
			t.Error(err)
		}
	}
	before := len(w.cmds)
	_, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: bad}))
	refused(err)
	_, err = c.VM.Update(t.Context(), connect.NewRequest(&blixardv1.UpdateRequest{Name: "web", Spec: bad, ValidateOnly: true}))
	refused(err)
	if len(w.cmds) != before {
		t.Errorf("%d commands", len(w.cmds)-before)
	}
	if _, err := c.VM.Create(t.Context(), connect.NewRequest(&blixardv1.CreateRequest{Name: "web", Spec: processSpec()})); err != nil {
		t.Error(err)
	}
}
