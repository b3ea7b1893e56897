package cluster

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Limits of a VM's spec. What they allow, every part behind them must bear.
const (
	maxVCPUs     = 256
	minMemoryMiB = 32
	maxMemoryMiB = 16 << 20
	maxDisks     = 16       // virtio-mmio has few slots
	maxDiskMiB   = 64 << 20 // 64 TiB
	maxBlobBytes = maxDiskMiB << 20
	maxCmdline   = 1500 // x86 takes 2048 in all, and the runner adds its own
	maxLabels    = 64
	maxName      = 63 // RFC 1123
	maxLabel     = 63
	maxArgv      = 256
	maxEnv       = 256
	maxProgram   = 64 << 10 // bytes of all of argv and env
	minLeaseMs   = 1000
	maxLeaseMs   = 3600000
	maxGraceMs   = 600000
	maxPriority  = 1000
)

// ValidateVM checks all of a VM before it is accepted, and returns nil or the
// first thing that is wrong with it. The edge calls it to answer early, and
// Apply to be sure: what it accepts is part of what Apply does, so a change
// here needs a new Level.
func ValidateVM(name string, spec *blixardv1.VMSpec) *blixardv1.Error {
	if err := ValidateName(name); err != nil {
		return err
	}
	if spec == nil {
		return invalid("spec", "the VM has no spec", "say at least what it boots: spec.nixos, spec.flake, spec.image.kernel or spec.process.argv")
	}
	for _, check := range []func(*blixardv1.VMSpec) *blixardv1.Error{
		checkEnums, checkSize, checkInterfaces, checkVolumes, checkDevices, checkShares, checkWarm, checkHypervisor, checkSource, checkLabels, checkTimes, checkHealth,
	} {
		if err := check(spec); err != nil {
			return err
		}
	}
	return nil
}

// ValidateName checks the name of a VM, a node or an artifact. Names become file
// names, host names and keys, so they are DNS labels in lower case.
func ValidateName(name string) *blixardv1.Error {
	const field = "name"
	const advice = "use 1 to 63 lower-case letters a-z, digits and '-', with a letter or a digit at both ends"
	switch {
	case name == "":
		return invalid(field, "it is empty", advice)
	case len(name) > maxName:
		return invalid(field, fmt.Sprintf("it is %d bytes long", len(name)), advice)
	case name[0] == '-' || name[len(name)-1] == '-':
		return invalid(field, fmt.Sprintf("%q begins or ends with '-'", name), advice)
	}
	for _, r := range name {
		if !nameRune(r) {
			return invalid(field, fmt.Sprintf("%+q holds %+q", name, r), advice)
		}
	}
	return nil
}

// ValidateDigest checks the name of an artifact.
func ValidateDigest(field, digest string) *blixardv1.Error {
	const advice = "give the SHA-256 of the content as 64 lower-case hexadecimal digits, as sha256sum prints it"
	if digest == "" {
		return invalid(field, "it is empty", advice)
	}
	if len(digest) != 64 {
		return invalid(field, fmt.Sprintf("it has %d characters", len(digest)), advice)
	}
	for _, c := range []byte(digest) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return invalid(field, fmt.Sprintf("it holds %+q", rune(c)), advice)
		}
	}
	return nil
}

// ValidateArtifact checks a reference to content.
func ValidateArtifact(field string, digest string, size uint64) *blixardv1.Error {
	if err := ValidateDigest(field+".digest", digest); err != nil {
		return err
	}
	if size == 0 {
		return invalid(field+".size", "it is 0", "give the size of the content in bytes; empty content boots nothing")
	}
	if size > maxBlobBytes {
		return invalid(field+".size", fmt.Sprintf("%d bytes are more than 64 TiB", size), "give the size of the content in bytes")
	}
	return nil
}

func checkEnums(s *blixardv1.VMSpec) *blixardv1.Error {
	for _, e := range []struct {
		field  string
		number int32
		names  map[int32]string
	}{
		{"spec.hypervisor", int32(s.GetHypervisor()), blixardv1.Hypervisor_name},
		{"spec.restart", int32(s.GetRestart()), blixardv1.RestartPolicy_name},
		{"spec.machine", int32(s.GetMachine()), blixardv1.Machine_name},
		{"spec.on_host_loss", int32(s.GetOnHostLoss()), blixardv1.OnHostLoss_name},
	} {
		if _, ok := e.names[e.number]; !ok {
			return invalid(e.field, fmt.Sprintf("%d means nothing here", e.number),
				"use one of "+strings.Join(inOrder(e.names), ", "))
		}
	}
	return nil
}

func checkSize(s *blixardv1.VMSpec) *blixardv1.Error {
	if n := s.GetVcpus(); n > maxVCPUs {
		return invalid("spec.vcpus", fmt.Sprintf("%d is too many", n), "use 1 to 256, or 0 for 1")
	}
	if n := s.GetMemoryMib(); n != 0 && (n < minMemoryMiB || n > maxMemoryMiB) {
		return invalid("spec.memory_mib", fmt.Sprintf("%d MiB is out of range", n), "use 32 to 16777216 MiB, or 0 for 512; the unit is MiB, not bytes")
	}
	return nil
}

func checkSource(s *blixardv1.VMSpec) *blixardv1.Error {
	switch src := s.GetSource().(type) {
	case *blixardv1.VMSpec_Image:
		return checkImage(src.Image)
	case *blixardv1.VMSpec_Process:
		return checkProcess(src.Process)
	case *blixardv1.VMSpec_Nixos:
		return checkNixos(s)
	case *blixardv1.VMSpec_Flake:
		return checkFlake(s)
	}
	return invalid("spec.source", "nothing says what the VM boots",
		"give spec.nixos with modules, spec.flake, spec.image with a kernel, or spec.process with argv")
}

func checkImage(i *blixardv1.Image) *blixardv1.Error {
	if i.GetKernel() == nil {
		return invalid("spec.image.kernel", "it is missing", "give the digest and the size of an uploaded kernel")
	}
	if err := ValidateArtifact("spec.image.kernel", i.GetKernel().GetDigest(), i.GetKernel().GetSize()); err != nil {
		return err
	}
	if r := i.GetInitrd(); r != nil {
		if err := ValidateArtifact("spec.image.initrd", r.GetDigest(), r.GetSize()); err != nil {
			return err
		}
	}
	if err := checkCmdline(i.GetCmdline()); err != nil {
		return err
	}
	if n := len(i.GetDisks()); n > maxDisks {
		return invalid("spec.image.disks", fmt.Sprintf("%d disks are too many", n), "use at most 16")
	}
	seen := map[string]bool{}
	total := uint64(0)
	for n, d := range i.GetDisks() {
		field := fmt.Sprintf("spec.image.disks[%d]", n)
		if err := checkDisk(field, d); err != nil {
			return err
		}
		if err := checkDiskLimit(field, d.GetLimit()); err != nil {
			return err
		}
		if seen[d.GetName()] {
			return invalid(field+".name", fmt.Sprintf("another disk is called %q too", d.GetName()), "give each disk its own name")
		}
		seen[d.GetName()] = true
		// Each is at most 64 TiB and there are at most 16: no overflow.
		total += max(d.GetSizeMib(), mebibytes(d.GetSource().GetSize()))
	}
	if total > maxDiskMiB {
		return invalid("spec.image.disks", fmt.Sprintf("together they are %d MiB, more than 64 TiB", total), "make them smaller; the unit is MiB")
	}
	return nil
}

func checkCmdline(c string) *blixardv1.Error {
	const field = "spec.image.cmdline"
	if len(c) > maxCmdline {
		return invalid(field, fmt.Sprintf("%d bytes are too long", len(c)), "use at most 1500: the kernel cuts what is longer")
	}
	if r, bad := firstBad(c, func(r rune) bool { return r >= ' ' && r <= '~' }); bad {
		return invalid(field, fmt.Sprintf("it holds %+q", r), "use printable ASCII in one line")
	}
	return nil
}

func checkDisk(field string, d *blixardv1.Disk) *blixardv1.Error {
	const advice = "use 1 to 20 lower-case letters a-z, digits and '-': the guest sees it as the disk's serial"
	if n := len(d.GetName()); n == 0 || n > 20 {
		return invalid(field+".name", fmt.Sprintf("it is %d bytes long", n), advice)
	}
	if r, bad := firstBad(d.GetName(), nameRune); bad {
		return invalid(field+".name", fmt.Sprintf("%+q holds %+q", d.GetName(), r), advice)
	}
	if d.GetSizeMib() > maxDiskMiB {
		return invalid(field+".size_mib", fmt.Sprintf("%d MiB are more than 64 TiB", d.GetSizeMib()), "make it smaller; the unit is MiB")
	}
	src := d.GetSource()
	if src == nil {
		if d.GetSizeMib() == 0 {
			return invalid(field+".size_mib", "a disk without a source needs a size", "give size_mib, or a source")
		}
		if d.GetReadOnly() {
			return invalid(field+".read_only", "the disk is blank and could never be written", "give it a source, or let it be written")
		}
		return nil
	}
	if err := ValidateArtifact(field+".source", src.GetDigest(), src.GetSize()); err != nil {
		return err
	}
	if need := mebibytes(src.GetSize()); d.GetSizeMib() != 0 && d.GetSizeMib() < need {
		return invalid(field+".size_mib", fmt.Sprintf("%d MiB cannot hold the source, which needs %d", d.GetSizeMib(), need), "make it larger, or 0 for the size of the source")
	}
	return nil
}

func checkProcess(p *blixardv1.Process) *blixardv1.Error {
	const argv, env = "spec.process.argv", "spec.process.env"
	if len(p.GetArgv()) == 0 {
		return invalid(argv, "it is empty", "give the absolute path of a program on the host, and its arguments")
	}
	if a := p.GetArgv()[0]; !strings.HasPrefix(a, "/") || strings.HasSuffix(a, "/") {
		return invalid(argv+"[0]", fmt.Sprintf("%+q is no absolute path of a program", a), "begin it with '/': nothing is searched in PATH")
	}
	if n := len(p.GetArgv()); n > maxArgv {
		return invalid(argv, fmt.Sprintf("%d arguments are too many", n), "use at most 256")
	}
	if n := len(p.GetEnv()); n > maxEnv {
		return invalid(env, fmt.Sprintf("%d variables are too many", n), "use at most 256")
	}
	size := 0
	for i, a := range p.GetArgv() {
		if err := checkWord(argv, a); err != nil {
			err.Field = fmt.Sprintf("%s[%d]", argv, i)
			return err
		}
		size += len(a)
	}
	for _, k := range keysOf(p.GetEnv()) {
		if k == "" || strings.Contains(k, "=") {
			return invalid(env, fmt.Sprintf("%+q is no name of a variable", k), "use a name that is not empty and has no '='")
		}
		field := fmt.Sprintf("%s[%+q]", env, k)
		if err := checkWord(field, k); err != nil {
			return err
		}
		if err := checkWord(field, p.GetEnv()[k]); err != nil {
			return err
		}
		size += len(k) + len(p.GetEnv()[k])
	}
	if size > maxProgram {
		return invalid("spec.process", fmt.Sprintf("argv and env are %d bytes together", size), "use at most 65536; put more into a file on the host")
	}
	return nil
}

// checkWord checks what execve takes: anything but NUL.
func checkWord(field, w string) *blixardv1.Error {
	if strings.ContainsRune(w, 0) {
		return invalid(field, "it holds a NUL byte", "remove it: no program can be given one")
	}
	if !utf8.ValidString(w) {
		return invalid(field, "it is not UTF-8", "use UTF-8 text")
	}
	return nil
}

// keysOf are the keys of a map, sorted; most maps are empty.
func keysOf(m map[string]string) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	// any order: sorted below
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func checkLabels(s *blixardv1.VMSpec) *blixardv1.Error {
	if err := ValidateLabels("spec.labels", s.GetLabels()); err != nil {
		return err
	}
	return ValidateLabels("spec.require", s.GetRequire())
}

// ValidateLabels checks labels, of a VM, of a host or of a selector.
func ValidateLabels(field string, labels map[string]string) *blixardv1.Error {
	if n := len(labels); n > maxLabels {
		return invalid(field, fmt.Sprintf("%d labels are too many", n), "use at most 64")
	}
	for _, k := range keysOf(labels) {
		if k == "" {
			return invalid(field, "a label has no key", "give every label a key")
		}
		for _, w := range []string{k, labels[k]} {
			if len(w) > maxLabel {
				return invalid(field, fmt.Sprintf("%.20q... is %d bytes long", w, len(w)), "use at most 63 characters in a key and in a value")
			}
			if r, bad := firstBad(w, labelRune); bad {
				return invalid(field, fmt.Sprintf("%+q holds %+q", w, r), "use A-Z a-z 0-9 . _ / - in keys and values")
			}
		}
	}
	return nil
}

func checkTimes(s *blixardv1.VMSpec) *blixardv1.Error {
	if n := s.GetLeaseMs(); n != 0 && (n < minLeaseMs || n > maxLeaseMs) {
		return invalid("spec.lease_ms", fmt.Sprintf("%d ms is out of range", n), "use 1000 to 3600000 ms, or 0 for the cluster's")
	}
	if n := s.GetStopGraceMs(); n > maxGraceMs {
		return invalid("spec.stop_grace_ms", fmt.Sprintf("%d ms is too long", n), "use at most 600000 ms, or 0 for 20000")
	}
	if n := s.GetPriority(); n < -maxPriority || n > maxPriority {
		return invalid("spec.priority", fmt.Sprintf("%d is out of range", n), "use -1000 to 1000")
	}
	if s.GetPrebuild() != 0 && !nixBuilt(s) {
		return invalid("spec.prebuild", "only what Nix builds can be held ready on other hosts", "leave it out")
	}
	if _, known := blixardv1.OnUpdate_name[int32(s.GetOnUpdate())]; !known {
		return invalid("spec.on_update", fmt.Sprintf("%d is not known", s.GetOnUpdate()), "use ON_UPDATE_NEXT_START or ON_UPDATE_RESTART")
	}
	return checkPrebuild(s.GetPrebuild())
}

func invalid(field, message, advice string) *blixardv1.Error {
	return &blixardv1.Error{
		Code:    blixardv1.ErrorCode_ERROR_CODE_INVALID,
		Field:   field,
		Message: message,
		Advice:  advice,
	}
}

func nameRune(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' }

func labelRune(r rune) bool {
	return nameRune(r) || r >= 'A' && r <= 'Z' || r == '.' || r == '_' || r == '/'
}

// firstBad returns the first rune that is not good; of bytes that are no
// UTF-8, U+FFFD.
func firstBad(s string, good func(rune) bool) (rune, bool) {
	for _, r := range s {
		if !good(r) || r == unicode.ReplacementChar {
			return r, true
		}
	}
	return 0, false
}

// mebibytes rounds up, without overflow.
func mebibytes(bytes uint64) uint64 {
	if bytes > math.MaxUint64-(1<<20-1) {
		return bytes >> 20
	}
	return (bytes + 1<<20 - 1) >> 20
}

func inOrder(names map[int32]string) []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(names)) {
		out = append(out, names[n])
	}
	return out
}
