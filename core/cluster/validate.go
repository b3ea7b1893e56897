package cluster

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Bounds of a spec. They keep sums far away from overflow, and a spec small
// enough to travel in every snapshot.
const (
	maxVCPUs     = 256
	minMemoryMiB = 32
	maxMemoryMiB = 16 << 20
	maxDiskMiB   = 64 << 20
	maxDisks     = 16
	maxArgs      = 256
	maxText      = 16 << 10 // bytes of a command line, of all arguments, of all variables
	maxLabels    = 64
)

// ValidateName checks the name of a VM, a node or an image:
// [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?, as in RFC 1123.
func ValidateName(name string) *blixardv1.Error {
	switch {
	case name == "":
		return invalid("name", "the name is empty", "give it 1 to 63 of a-z, 0-9 and -")
	case len(name) > 63:
		return invalid("name", fmt.Sprintf("the name has %d characters", len(name)), "63 are the most")
	case !all(name, func(c byte) bool { return lowerAlnum(c) || c == '-' }) || name[0] == '-' || name[len(name)-1] == '-':
		return invalid("name", fmt.Sprintf("the name %q is not allowed", name), "use a-z, 0-9 and -, beginning and ending with a letter or digit")
	}
	return nil
}

// ValidDigest says whether it is a SHA-256 as 64 lowercase hexadecimal digits.
func ValidDigest(digest string) bool {
	return len(digest) == 64 && all(digest, func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' })
}

// ValidateVM checks everything about a VM that can be known without a cluster.
// It returns the first thing wrong, or nil.
func ValidateVM(name string, spec *blixardv1.VMSpec) *blixardv1.Error {
	if err := ValidateName(name); err != nil {
		return err
	}
	if spec == nil {
		return invalid("spec", "there is no spec", "say what to run: an image (kernel) or a process")
	}
	for _, check := range []func(*blixardv1.VMSpec) *blixardv1.Error{validateSize, validatePolicy, validateLabels, validateSource} {
		if err := check(spec); err != nil {
			return err
		}
	}
	return nil
}

func validateSize(spec *blixardv1.VMSpec) *blixardv1.Error {
	if spec.Vcpus > maxVCPUs {
		return invalid("spec.vcpus", fmt.Sprintf("%d vcpus are too many", spec.Vcpus), fmt.Sprintf("1 to %d are possible", maxVCPUs))
	}
	if m := spec.MemoryMib; m != 0 && (m < minMemoryMiB || m > maxMemoryMiB) {
		return invalid("spec.memory_mib", fmt.Sprintf("%d MiB of memory are out of range", m), fmt.Sprintf("%d to %d are possible", minMemoryMiB, maxMemoryMiB))
	}
	return nil
}

func validatePolicy(spec *blixardv1.VMSpec) *blixardv1.Error {
	if l := spec.LeaseMs; l != 0 && (l < 1_000 || l > 3_600_000) {
		return invalid("spec.lease_ms", fmt.Sprintf("a lease of %d ms is out of range", l), "1000 to 3600000 are possible; 0 takes the cluster's")
	}
	if spec.StopGraceMs > 600_000 {
		return invalid("spec.stop_grace_ms", fmt.Sprintf("a grace time of %d ms is too long", spec.StopGraceMs), "600000 is the most")
	}
	if spec.Priority < -1000 || spec.Priority > 1000 {
		return invalid("spec.priority", fmt.Sprintf("a priority of %d is out of range", spec.Priority), "-1000 to 1000 are possible")
	}
	if _, ok := blixardv1.RestartPolicy_name[int32(spec.Restart)]; !ok {
		return invalid("spec.restart", "the restart policy is unknown", "use always, on-failure or never")
	}
	if _, ok := blixardv1.OnHostLoss_name[int32(spec.OnHostLoss)]; !ok {
		return invalid("spec.on_host_loss", "the policy for a lost host is unknown", "use replace or wait")
	}
	if _, ok := blixardv1.Hypervisor_name[int32(spec.Hypervisor)]; !ok {
		return invalid("spec.hypervisor", "the hypervisor is unknown", "use qemu, cloud-hypervisor, firecracker or process")
	}
	return nil
}

func validateLabels(spec *blixardv1.VMSpec) *blixardv1.Error {
	for _, m := range []struct {
		field  string
		labels map[string]string
	}{{"spec.labels", spec.Labels}, {"spec.require", spec.Require}} {
		if err := ValidateLabels(m.field, m.labels); err != nil {
			return err
		}
	}
	return nil
}

// ValidateLabels checks a set of labels; field says in errors whose they are.
func ValidateLabels(field string, labels map[string]string) *blixardv1.Error {
	if len(labels) > maxLabels {
		return invalid(field, fmt.Sprintf("%d labels are too many", len(labels)), fmt.Sprintf("%d are the most", maxLabels))
	}
	for _, k := range sortedKeys(labels) {
		if k == "" || !labelText(k) || !labelText(labels[k]) {
			return invalid(field, fmt.Sprintf("the label %q=%q is not allowed", k, labels[k]), "use at most 63 of A-Z, a-z, 0-9 and . _ / - for each")
		}
	}
	return nil
}

func validateSource(spec *blixardv1.VMSpec) *blixardv1.Error {
	switch src := spec.Source.(type) {
	case *blixardv1.VMSpec_Image:
		if spec.Hypervisor == blixardv1.Hypervisor_HYPERVISOR_PROCESS {
			return invalid("spec.hypervisor", "an image cannot run as a process", "use qemu, or leave the hypervisor out")
		}
		return validateImage(src.Image)
	case *blixardv1.VMSpec_Process:
		if h := spec.Hypervisor; h != blixardv1.Hypervisor_HYPERVISOR_PROCESS && h != blixardv1.Hypervisor_HYPERVISOR_UNSPECIFIED {
			return invalid("spec.hypervisor", "a process runs under no hypervisor", "use process, or leave the hypervisor out")
		}
		return validateProcess(src.Process)
	}
	return invalid("spec.source", "the spec does not say what to run", "give an image (kernel) or a process (argv)")
}

func validateImage(img *blixardv1.Image) *blixardv1.Error {
	if img.GetKernel() == nil {
		return invalid("spec.image.kernel", "the image has no kernel", "give one: a file, a digest, or the name of a pushed image")
	}
	if err := validateArtifact("spec.image.kernel", img.Kernel); err != nil {
		return err
	}
	if err := validateArtifact("spec.image.initrd", img.Initrd); err != nil {
		return err
	}
	// The kernel takes at most 2048 bytes, and the runner needs some.
	if len(img.Cmdline) > 1536 || !printable(img.Cmdline) {
		return invalid("spec.image.cmdline", "the kernel command line is too long or has control characters", "use at most 1536 printable characters on one line")
	}
	if len(img.Disks) > maxDisks {
		return invalid("spec.image.disks", fmt.Sprintf("%d disks are too many", len(img.Disks)), fmt.Sprintf("%d are the most", maxDisks))
	}
	seen := map[string]bool{}
	for i, d := range img.Disks {
		if err := validateDisk(fmt.Sprintf("spec.image.disks[%d]", i), d); err != nil {
			return err
		}
		if seen[d.Name] {
			return invalid(fmt.Sprintf("spec.image.disks[%d].name", i), fmt.Sprintf("two disks are named %q", d.Name), "give each a name of its own")
		}
		seen[d.Name] = true
	}
	return nil
}

func validateDisk(field string, d *blixardv1.Disk) *blixardv1.Error {
	if d.GetName() == "" || len(d.Name) > 20 || !all(d.Name, func(c byte) bool { return lowerAlnum(c) || c == '-' }) {
		return invalid(field+".name", fmt.Sprintf("the disk name %q is not allowed", d.GetName()), "use 1 to 20 of a-z, 0-9 and -")
	}
	if err := validateArtifact(field+".source", d.Source); err != nil {
		return err
	}
	if d.SizeMib > maxDiskMiB {
		return invalid(field+".size_mib", fmt.Sprintf("a disk of %d MiB is too large", d.SizeMib), fmt.Sprintf("%d is the most", maxDiskMiB))
	}
	if d.Source == nil && d.SizeMib == 0 {
		return invalid(field+".size_mib", "a blank disk needs a size", "give size_mib, or a source")
	}
	if d.Source != nil && d.SizeMib != 0 && d.SizeMib<<20 < d.Source.Size {
		return invalid(field+".size_mib", fmt.Sprintf("the disk is smaller (%d MiB) than its source (%d bytes)", d.SizeMib, d.Source.Size), "give it at least the size of its source")
	}
	return nil
}

func validateArtifact(field string, a *blixardv1.Artifact) *blixardv1.Error {
	if a == nil {
		return nil
	}
	if !ValidDigest(a.Digest) {
		return invalid(field+".digest", fmt.Sprintf("%q is no digest", clip(a.Digest)), "a digest is 64 lowercase hexadecimal digits (SHA-256)")
	}
	if a.Size == 0 || a.Size > maxDiskMiB<<20 {
		return invalid(field+".size", fmt.Sprintf("%d bytes is no possible size", a.Size), "give the artifact's size in bytes")
	}
	return nil
}

func validateProcess(p *blixardv1.Process) *blixardv1.Error {
	argv := p.GetArgv()
	if len(argv) == 0 || !strings.HasPrefix(argv[0], "/") {
		return invalid("spec.process.argv", "the program is not an absolute path", "argv[0] must begin with /")
	}
	if len(argv) > maxArgs || size(argv) > maxText || slices.ContainsFunc(argv, hasNUL) {
		return invalid("spec.process.argv", "the arguments are too many, too long, or have a NUL", fmt.Sprintf("%d arguments and %d bytes are the most", maxArgs, maxText))
	}
	keys := sortedKeys(p.Env)
	if len(keys) > maxArgs || size(keys) > maxText {
		return invalid("spec.process.env", "there are too many variables", fmt.Sprintf("%d variables and %d bytes are the most", maxArgs, maxText))
	}
	total := 0
	for _, k := range keys {
		total += len(p.Env[k])
		if k == "" || strings.ContainsAny(k, "=\x00") || hasNUL(p.Env[k]) || total > maxText {
			return invalid("spec.process.env", fmt.Sprintf("the variable %q is not allowed", clip(k)), "a name is not empty and has no =; neither has a NUL; 16 KiB are the most")
		}
	}
	return nil
}

func invalid(field, message, advice string) *blixardv1.Error {
	return &blixardv1.Error{Code: blixardv1.ErrorCode_ERROR_CODE_INVALID, Field: field, Message: message, Advice: advice}
}

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func labelText(s string) bool {
	return len(s) <= 63 && all(s, func(c byte) bool {
		return lowerAlnum(c) || c >= 'A' && c <= 'Z' || strings.IndexByte("._/-", c) >= 0
	})
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) }

func size(list []string) (n int) {
	for _, s := range list {
		n += len(s) + 1
	}
	return n
}

func clip(s string) string { return s[:min(len(s), 80)] }

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
