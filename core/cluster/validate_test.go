package cluster

import (
	"math"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

const (
	digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	kernel = `"kernel":{"digest":"` + digest + `","size":"1000"}`
)

func TestValidateVM(t *testing.T) {
	for _, c := range []struct{ spec, field string }{
		{`{"image":{` + kernel + `}}`, ""},
		{`{"process":{"argv":["/bin/sleep","1"]}}`, ""},
		{`{"hypervisor":"HYPERVISOR_PROCESS","process":{"argv":["/bin/sleep"],"env":{"A":"b"}}}`, ""},
		{`{"image":{` + kernel + `,"disks":[{"name":"a","sizeMib":"1"},{"name":"b","source":{"digest":"` + digest + `","size":"1048577"},"sizeMib":"2","readOnly":true}]}}`, ""},
		{`{"image":{` + kernel + `,"cmdline":"console=ttyS0 quiet"},"labels":{"a/b.c":"D_e"},"require":{"zone":""},"leaseMs":1000,"priority":-1000,"vcpus":256,"memoryMib":"16777216"}`, ""},

		{`{}`, "spec.source"},
		{`{"image":{}}`, "spec.image.kernel"},
		{`{"image":{"kernel":{}}}`, "spec.image.kernel.digest"},
		{`{"image":{"kernel":{"digest":"../../etc/passwd","size":"1"}}}`, "spec.image.kernel.digest"},
		{`{"image":{"kernel":{"digest":"` + strings.ToUpper(digest) + `","size":"1"}}}`, "spec.image.kernel.digest"},
		{`{"image":{"kernel":{"digest":"` + digest + `"}}}`, "spec.image.kernel.size"},
		{`{"image":{"kernel":{"digest":"` + digest + `","size":"18446744073709551615"}}}`, "spec.image.kernel.size"},
		{`{"image":{` + kernel + `,"initrd":{"digest":"x","size":"1"}}}`, "spec.image.initrd.digest"},
		{`{"image":{` + kernel + `,"cmdline":"a\nb"}}`, "spec.image.cmdline"},
		{`{"image":{` + kernel + `,"cmdline":"a\u0000b"}}`, "spec.image.cmdline"},
		{`{"image":{` + kernel + `,"cmdline":"` + strings.Repeat("x", 1501) + `"}}`, "spec.image.cmdline"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a"}]}}`, "spec.image.disks[0].size_mib"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a","sizeMib":"1","readOnly":true}]}}`, "spec.image.disks[0].read_only"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a","sizeMib":"1"},{"name":"a","sizeMib":"1"}]}}`, "spec.image.disks[1].name"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a,file=/etc/shadow","sizeMib":"1"}]}}`, "spec.image.disks[0].name"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a","sizeMib":"18446744073709551615"}]}}`, "spec.image.disks[0].size_mib"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a","sizeMib":"67108864"},{"name":"b","sizeMib":"1"}]}}`, "spec.image.disks"},
		{`{"image":{` + kernel + `,"disks":[{"name":"a","source":{"digest":"` + digest + `","size":"1048577"},"sizeMib":"1"}]}}`, "spec.image.disks[0].size_mib"},
		{`{"image":{` + kernel + `,"disks":[` + strings.Repeat(`{"name":"a","sizeMib":"1"},`, 16) + `{"name":"a","sizeMib":"1"}]}}`, "spec.image.disks"},
		{`{"hypervisor":"HYPERVISOR_PROCESS","image":{` + kernel + `}}`, "spec.hypervisor"},
		{`{"hypervisor":"HYPERVISOR_QEMU","process":{"argv":["/bin/true"]}}`, "spec.hypervisor"},
		{`{"machine":"MACHINE_Q35","image":{` + kernel + `}}`, ""},
		{`{"machine":"MACHINE_Q35","hypervisor":"HYPERVISOR_FIRECRACKER","image":{` + kernel + `}}`, "spec.machine"},
		{`{"machine":"MACHINE_Q35","process":{"argv":["/bin/true"]}}`, "spec.machine"},
		{`{"machine":"MACHINE_Q35","nixos":{}}`, "spec.machine"},
		{`{"warm":true,"image":{` + kernel + `}}`, ""},
		{`{"warm":true,"image":{` + kernel + `,"disks":[{"name":"seed","readOnly":true,"source":{"digest":"` + strings.Repeat("ab", 32) + `","size":"1"}}]}}`, ""},
		{`{"warm":true,"image":{` + kernel + `,"disks":[{"name":"data","sizeMib":8}]}}`, "spec.warm"},
		{`{"warm":true,"image":{` + kernel + `},"volumes":[{"volume":"data"}]}`, "spec.warm"},
		{`{"warm":true,"image":{` + kernel + `},"devices":[{"kind":"gpu"}]}`, "spec.warm"},
		{`{"warm":true,"hypervisor":"HYPERVISOR_FIRECRACKER","image":{` + kernel + `}}`, "spec.warm"},
		{`{"warm":true,"process":{"argv":["/bin/true"]}}`, "spec.warm"},
		{`{"warm":true,"nixos":{}}`, "spec.warm"},
		{`{"machine":77,"image":{` + kernel + `}}`, "spec.machine"},
		{`{"hypervisor":77,"image":{` + kernel + `}}`, "spec.hypervisor"},
		{`{"restart":-1,"image":{` + kernel + `}}`, "spec.restart"},
		{`{"onHostLoss":9,"image":{` + kernel + `}}`, "spec.on_host_loss"},
		{`{"process":{}}`, "spec.process.argv"},
		{`{"process":{"argv":["sleep"]}}`, "spec.process.argv[0]"},
		{`{"process":{"argv":[""]}}`, "spec.process.argv[0]"},
		{`{"process":{"argv":["/bin/echo","a\u0000b"]}}`, "spec.process.argv[1]"},
		{`{"process":{"argv":["/bin/echo"],"env":{"A=B":"c"}}}`, "spec.process.env"},
		{`{"process":{"argv":["/bin/echo"],"env":{"A":"\u0000"}}}`, `spec.process.env["A"]`},
		{`{"process":{"argv":["/bin/echo","` + strings.Repeat("x", 65536) + `"]}}`, "spec.process"},
		{`{"image":{` + kernel + `},"vcpus":257}`, "spec.vcpus"},
		{`{"image":{` + kernel + `},"vcpus":4294967295}`, "spec.vcpus"},
		{`{"hypervisor":"HYPERVISOR_FIRECRACKER","image":{` + kernel + `},"vcpus":33}`, "spec.vcpus"},
		{`{"image":{` + kernel + `},"memoryMib":"31"}`, "spec.memory_mib"},
		{`{"image":{` + kernel + `},"memoryMib":"18446744073709551615"}`, "spec.memory_mib"},
		{`{"image":{` + kernel + `},"leaseMs":999}`, "spec.lease_ms"},
		{`{"image":{` + kernel + `},"leaseMs":3600001}`, "spec.lease_ms"},
		{`{"image":{` + kernel + `},"stopGraceMs":600001}`, "spec.stop_grace_ms"},
		{`{"image":{` + kernel + `},"priority":-1001}`, "spec.priority"},
		{`{"image":{` + kernel + `},"labels":{"":"x"}}`, "spec.labels"},
		{`{"image":{` + kernel + `},"labels":{"a b":"x"}}`, "spec.labels"},
		{`{"image":{` + kernel + `},"require":{"a":"` + strings.Repeat("x", 64) + `"}}`, "spec.require"},
	} {
		var spec blixardv1.VMSpec
		if err := protojson.Unmarshal([]byte(c.spec), &spec); err != nil {
			t.Fatalf("%s: %v", c.spec, err)
		}
		got := ValidateVM("web-1", &spec)
		switch {
		case got.GetField() != c.field:
			t.Errorf("%.200s: field %q (%v), want %q", c.spec, got.GetField(), got, c.field)
		case got != nil && (got.GetMessage() == "" || got.GetAdvice() == "" || got.GetCode() != blixardv1.ErrorCode_ERROR_CODE_INVALID):
			t.Errorf("%.200s: says too little: %v", c.spec, got)
		}
	}
	if got := ValidateVM("a", nil); got.GetField() != "spec" {
		t.Errorf("no spec: %v", got)
	}
}

func TestValidateNameIsItsRegexp(t *testing.T) {
	re := regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)
	check := func(name string) string {
		if got, want := ValidateName(name) == nil, re.MatchString(name); got != want {
			return name
		}
		return ""
	}
	for _, n := range []string{
		"", "a", "-", "a-", "-a", "a-b", "..", ".", "a/b", "A", "ä", "a\n", "\na", "a\x00", "ａ", "a b", "a_b", "a.b", "\xff",
		strings.Repeat("a", 63), strings.Repeat("a", 64), "a\u200bb", "🦎", "$(id)", "a;b", "'", `"`, `\`, "${x}",
	} {
		if bad := check(n); bad != "" {
			t.Errorf("%q is judged wrongly", n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9-]{0,66}`)).Draw(t, "name")
		if bad := check(s); bad != "" {
			t.Errorf("%q is judged wrongly", s)
		}
	})
}

func TestMebibytes(t *testing.T) {
	for in, want := range map[uint64]uint64{0: 0, 1: 1, 1 << 20: 1, 1<<20 + 1: 2, math.MaxUint64: 1<<44 - 1} {
		if got := mebibytes(in); got != want {
			t.Errorf("mebibytes(%d) = %d, want %d", in, got, want)
		}
	}
}
