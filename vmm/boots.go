package vmm

import "github.com/blixard/blixard/core/mutant"

// MostBoots is how many saved boots a host keeps. They are a cache, for which nobody
// accounts.
const MostBoots = 8

// Boot is the saved boot of a VM, and when it was last saved or used.
type Boot struct {
	UID  string
	Used int64
}

// SparedBoot says whose saved boot goes, now that one of saved is there and a host keeps
// so many: of the others the one that was used the longest time ago; empty for none.
func SparedBoot(boots []Boot, saved string, most int) string {
	var oldest Boot
	for _, b := range boots {
		if b.UID != saved && (oldest.UID == "" || b.Used < oldest.Used) {
			oldest = b
		}
	}
	if len(boots) <= most || mutant.On("BootsUnbounded") {
		return ""
	}
	return oldest.UID
}
