package cluster

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

func nixSpec(t *testing.T, text string) *blixardv1.VMSpec {
	t.Helper()
	s := &blixardv1.VMSpec{}
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

func TestValidateNixos(t *testing.T) {
	const art = `{"digest":"` + digest + `","size":"100"}`
	for _, c := range []struct{ spec, field string }{
		{`{"nixos":{}}`, ""},
		{`{"nixos":{"networks":[{"tap":{}},{"tap":{"id":"tap0","bridge":"br0","mac":"02:00:00:00:00:0A"}}]}}`, ""},
		{`{"nixos":{"volumes":[{"root":{"sizeMib":"1024"}},{"data":{"path":"db.img","sizeMib":"64","mountPoint":"/var/lib/db"}},{"data":{"path":"/srv/x.raw","readOnly":true}}]}}`, ""},
		{`{"nixos":{"shares":[{"tag":"src","source":"/srv/src","mountPoint":"/src","readOnly":true}]}}`, ""},
		{`{"nixos":{"modules":[{"inline":"{ }"},{"file":` + art + `},{"flakePart":"webserver"}],"flakeModules":["extra"]}}`, ""},
		{`{"nixos":{"kernel":{"package":"linuxKernel.packages.linux_6_12","params":["quiet","a=${b}"]},"init":"echo 'hello'\n","vsockCid":3}}`, ""},
		{`{"hypervisor":"HYPERVISOR_QEMU","nixos":{"networks":[{"user":{}}]}}`, ""},
		{`{"flake":{"ref":"github:me/infra?dir=vms","attribute":"packages.x86_64-linux.web-1"}}`, ""},
		{`{"flake":{"packed":` + art + `}}`, ""},

		// What hypervisors cannot do.
		{`{"hypervisor":"HYPERVISOR_PROCESS","nixos":{}}`, "spec.hypervisor"},
		{`{"hypervisor":"HYPERVISOR_QEMU","memoryMib":"2048","nixos":{}}`, "spec.memory_mib"},
		{`{"hypervisor":"HYPERVISOR_FIRECRACKER","vcpus":33,"nixos":{}}`, "spec.vcpus"},
		{`{"hypervisor":"HYPERVISOR_FIRECRACKER","nixos":{"shares":[{"tag":"a","source":"/a","mountPoint":"/a"}]}}`, "spec.nixos.shares"},
		{`{"hypervisor":"HYPERVISOR_FIRECRACKER","nixos":{"networks":[{"user":{}}]}}`, "spec.nixos.networks[0].user"},
		{`{"nixos":{"networks":[{"user":{}}]}}`, "spec.nixos.networks[0].user"},
		{`{"hypervisor":"HYPERVISOR_QEMU","nixos":{"volumes":[` + strings.Repeat(`{"root":{}},`, 14) + `{"root":{}}],"networks":[` + strings.Repeat(`{"tap":{}},`, 5) + `{"tap":{}}]}}`, "spec.nixos"},
		{`{"hypervisor":"HYPERVISOR_QEMU","nixos":{"networks":[{"user":{}},{"user":{}}]}}`, "spec.nixos.networks[1].user"},
		{`{"nixos":{"vsockCid":2}}`, "spec.nixos.vsock_cid"},
		{`{"nixos":{"vsockCid":4294967295}}`, "spec.nixos.vsock_cid"},

		// Networks.
		{`{"nixos":{"networks":[{}]}}`, "spec.nixos.networks[0]"},
		{`{"nixos":{"networks":[` + strings.Repeat(`{"tap":{}},`, 8) + `{"tap":{}}]}}`, "spec.nixos.networks"},
		{`{"nixos":{"networks":[{"tap":{"id":"abcdefghijklmnop"}}]}}`, "spec.nixos.networks[0].tap.id"},
		{`{"nixos":{"networks":[{"tap":{"id":"a';reboot"}}]}}`, "spec.nixos.networks[0].tap.id"},
		{`{"nixos":{"networks":[{"tap":{"id":"-a"}}]}}`, "spec.nixos.networks[0].tap.id"},
		{`{"nixos":{"networks":[{"tap":{"bridge":"a/b"}}]}}`, "spec.nixos.networks[0].tap.bridge"},
		{`{"nixos":{"networks":[{"tap":{"id":"a"}},{"tap":{"id":"a"}}]}}`, "spec.nixos.networks[1].tap.id"},
		{`{"nixos":{"networks":[{"tap":{"mac":"01:00:00:00:00:01"}}]}}`, "spec.nixos.networks[0].tap.mac"},
		{`{"nixos":{"networks":[{"tap":{"mac":"00:00:00:00:00:00"}}]}}`, "spec.nixos.networks[0].tap.mac"},
		{`{"nixos":{"networks":[{"tap":{"mac":"02:00:00:00:00:+1"}}]}}`, "spec.nixos.networks[0].tap.mac"},
		{`{"nixos":{"networks":[{"tap":{"mac":"02:00:00:00:00:0a"}},{"tap":{"mac":"02:00:00:00:00:0A"}}]}}`, "spec.nixos.networks[1].tap.mac"},

		// Volumes and shares.
		{`{"nixos":{"volumes":[{}]}}`, "spec.nixos.volumes[0]"},
		{`{"nixos":{"volumes":[` + strings.Repeat(`{"root":{}},`, 16) + `{"root":{}}]}}`, "spec.nixos.volumes"},
		{`{"nixos":{"volumes":[{"root":{"sizeMib":"1024"}},{"root":{"sizeMib":"1024"}}]}}`, "spec.nixos.volumes[1].root"},
		{`{"nixos":{"volumes":[{"root":{}}]}}`, "spec.nixos.volumes[0].root.size_mib"},
		{`{"nixos":{"volumes":[{"data":{"path":"db.img"}}]}}`, "spec.nixos.volumes[0].data.size_mib"},
		{`{"nixos":{"volumes":[{"data":{"path":"db.img","sizeMib":"64","readOnly":true}}]}}`, "spec.nixos.volumes[0].data.read_only"},
		{`{"nixos":{"volumes":[{"data":{"path":"root.img","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"../x.img","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"lock","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":".img","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"/a/../b","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"/a,readonly=on","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"/a'$(x)","sizeMib":"64"}}]}}`, "spec.nixos.volumes[0].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"a.img","sizeMib":"64"}},{"data":{"path":"a.img","sizeMib":"64"}}]}}`, "spec.nixos.volumes[1].data.path"},
		{`{"nixos":{"volumes":[{"data":{"path":"a.img","sizeMib":"64","mountPoint":"/"}}]}}`, "spec.nixos.volumes[0].data.mount_point"},
		{`{"nixos":{"volumes":[{"data":{"path":"a.img","sizeMib":"64","mountPoint":"/proc/x"}}]}}`, "spec.nixos.volumes[0].data.mount_point"},
		{`{"nixos":{"volumes":[{"data":{"path":"a.img","sizeMib":"64","mountPoint":"data"}}]}}`, "spec.nixos.volumes[0].data.mount_point"},
		{`{"nixos":{"volumes":[{"data":{"path":"a.img","sizeMib":"67108864"}},{"data":{"path":"b.img","sizeMib":"64"}}]}}`, "spec.nixos.volumes"},
		{`{"nixos":{"volumes":[{"data":{"path":"a.img","sizeMib":"64","mountPoint":"/d"}}],"shares":[{"tag":"t","source":"/s","mountPoint":"/d"}]}}`, "spec.nixos.shares[0].mount_point"},
		{`{"nixos":{"shares":[{"tag":"a b","source":"/s","mountPoint":"/d"}]}}`, "spec.nixos.shares[0].tag"},
		{`{"nixos":{"shares":[{"tag":"","source":"/s","mountPoint":"/d"}]}}`, "spec.nixos.shares[0].tag"},
		{`{"nixos":{"shares":[{"tag":"t","source":"s","mountPoint":"/d"}]}}`, "spec.nixos.shares[0].source"},
		{`{"nixos":{"shares":[{"tag":"t","source":"/s$(reboot)","mountPoint":"/d"}]}}`, "spec.nixos.shares[0].source"},
		{`{"nixos":{"shares":[{"tag":"t","source":"/s","mountPoint":""}]}}`, "spec.nixos.shares[0].mount_point"},
		{`{"nixos":{"shares":[{"tag":"t","source":"/s","mountPoint":"/a"},{"tag":"t","source":"/s","mountPoint":"/b"}]}}`, "spec.nixos.shares[1].tag"},

		// Modules, kernel, init.
		{`{"nixos":{"modules":[{}]}}`, "spec.nixos.modules[0]"},
		{`{"nixos":{"modules":[{"inline":" \n"}]}}`, "spec.nixos.modules[0].inline"},
		{`{"nixos":{"modules":[{"inline":"{ }\u0000"}]}}`, "spec.nixos.modules[0].inline"},
		{`{"nixos":{"modules":[{"inline":"` + strings.Repeat("x", 256<<10) + `"},{"inline":"x"}]}}`, "spec.nixos.modules"},
		{`{"nixos":{"modules":[{"file":{"digest":"` + digest + `","size":"1048577"}}]}}`, "spec.nixos.modules[0].file.size"},
		{`{"nixos":{"modules":[{"file":{}}]}}`, "spec.nixos.modules[0].file.digest"},
		{`{"nixos":{"modules":[{"flakePart":"a b"}]}}`, "spec.nixos.modules[0].flake_part"},
		{`{"nixos":{"flakeModules":["a","a"]}}`, "spec.nixos.flake_modules[1]"},
		{`{"nixos":{"flakeModules":["1"]}}`, "spec.nixos.flake_modules[0]"},
		{`{"nixos":{"kernel":{"package":"a..b"}}}`, "spec.nixos.kernel.package"},
		{`{"nixos":{"kernel":{"params":["a b"]}}}`, "spec.nixos.kernel.params[0]"},
		{`{"nixos":{"kernel":{"params":["` + strings.Repeat("x", 1001) + `"]}}}`, "spec.nixos.kernel.params"},
		{`{"nixos":{"init":"\u0000"}}`, "spec.nixos.init"},

		// Flakes.
		{`{"flake":{}}`, "spec.flake"},
		{`{"hypervisor":"HYPERVISOR_PROCESS","flake":{"ref":"github:a/b"}}`, "spec.hypervisor"},
		{`{"flake":{"ref":"nixpkgs"}}`, "spec.flake.ref"},
		{`{"flake":{"ref":"/etc"}}`, "spec.flake.ref"},
		{`{"flake":{"ref":"path:/etc"}}`, "spec.flake.ref"},
		{`{"flake":{"ref":"git+file:///etc"}}`, "spec.flake.ref"},
		{`{"flake":{"ref":"github:a/b#c"}}`, "spec.flake.ref"},
		{`{"flake":{"ref":"github:a/${b}"}}`, "spec.flake.ref"},
		{`{"flake":{"ref":"github:a/b","attribute":"a..b"}}`, "spec.flake.attribute"},
		{`{"flake":{"ref":"github:a/b","attribute":"--option"}}`, "spec.flake.attribute"},
		{`{"flake":{"packed":{"digest":"` + digest + `","size":"67108865"}}}`, "spec.flake.packed.size"},
	} {
		err := ValidateVM("web", nixSpec(t, c.spec))
		if err.GetField() != c.field {
			t.Errorf("%.200s\n got %q (%s), want %q", c.spec, err.GetField(), err.GetMessage(), c.field)
		}
		if err != nil && (err.Message == "" || err.Advice == "" || strings.Contains(err.Message, `'\x00'`)) {
			t.Errorf("%.200s: %q, %q", c.spec, err.Message, err.Advice)
		}
	}
}

func TestNixosIsCompleted(t *testing.T) {
	for spec, want := range map[string]blixardv1.OnHostLoss{
		`{"nixos":{}}`: blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
		`{"nixos":{"volumes":[{"root":{"sizeMib":"64"}}]}}`:                                  blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT,
		`{"nixos":{"volumes":[{"data":{"path":"/x","readOnly":true}}]}}`:                     blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
		`{"nixos":{"shares":[{"tag":"t","source":"/s","mountPoint":"/d"}]}}`:                 blixardv1.OnHostLoss_ON_HOST_LOSS_WAIT,
		`{"onHostLoss":"ON_HOST_LOSS_REPLACE","nixos":{"volumes":[{"data":{}}]}}`:            blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
		`{"nixos":{"shares":[{"tag":"t","source":"/s","mountPoint":"/d","readOnly":true}]}}`: blixardv1.OnHostLoss_ON_HOST_LOSS_REPLACE,
	} {
		s := (&State{}).complete(nixSpec(t, spec))
		if s.OnHostLoss != want || s.Hypervisor != blixardv1.Hypervisor_HYPERVISOR_CLOUD_HYPERVISOR || s.MemoryMib != 512 {
			t.Errorf("%s: %v", spec, s)
		}
	}
}

func TestNixosNeedsRoomAndFiles(t *testing.T) {
	s := nixSpec(t, `{"nixos":{"volumes":[{"root":{"sizeMib":"64"}},{"data":{"path":"a.img","sizeMib":"100"}}],
		"modules":[{"inline":"{ }"},{"file":{"digest":"`+digest+`","size":"1"}}]}}`)
	if got := need(s).DiskMiB; got != 164 {
		t.Errorf("needs %d MiB", got)
	}
	if a := artifacts(s); len(a) != 1 || a[0].Digest != digest {
		t.Errorf("artifacts %v", a)
	}
	if a := artifacts(nixSpec(t, `{"flake":{"packed":{"digest":"`+digest+`","size":"1"}}}`)); len(a) != 1 {
		t.Errorf("artifacts %v", a)
	}
}
