package rpc

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// A client that takes gzip gets it for what is large, and not for what is small;
// and ten thousand VMs are listed page by page.
func TestSmallAnswersAreNotCompressed(t *testing.T) {
	n := &node{}
	w := serve(t, noTLS, n)
	w.mu.Lock()
	for i := range 10_000 {
		spec := processSpec()
		spec.Labels = map[string]string{"note": strings.Repeat("x", 60)}
		if resp := w.apply(&blixardv1.Command{RequestId: fmt.Sprintf("%032d", i), Op: &blixardv1.Command_CreateVm{
			CreateVm: &blixardv1.CreateVMOp{Name: fmt.Sprintf("vm%05d", i), Spec: spec}}}); resp.GetError() != nil {
			t.Fatal(resp.Error)
		}
	}
	w.mu.Unlock()
	ask := func(method, body string) (encoding, text string) {
		req, _ := http.NewRequest("POST", "http://"+n.address+"/blixard.v1.VMService/"+method, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept-Encoding", "gzip") // by hand: it is not undone behind our back
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		if r.StatusCode != 200 {
			t.Fatalf("%s: %d %s", method, r.StatusCode, b)
		}
		return r.Header.Get("Content-Encoding"), string(b)
	}
	if how, text := ask("Get", `{"name": "vm00007"}`); how != "" || !strings.Contains(text, "vm00007") {
		t.Errorf("one VM, %d bytes, comes as %q", len(text), how)
	}
	if how, text := ask("List", `{"pageSize": 1000}`); how != "gzip" {
		t.Errorf("1,000 VMs, %d bytes, come as %q", len(text), how)
	}
	c, names := dial(t, nil, n), 0
	for token := ""; ; {
		r, err := c.VM.List(t.Context(), connect.NewRequest(&blixardv1.ListRequest{PageSize: 1000, PageToken: token}))
		if err != nil {
			t.Fatal(err)
		}
		names += len(r.Msg.Vms)
		if token = r.Msg.NextPageToken; token == "" {
			break
		}
	}
	if names != 10_000 {
		t.Errorf("%d VMs are listed", names)
	}
}
