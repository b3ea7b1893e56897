//go:build !mutants

package mutant

// Built says whether this program carries planted bugs at all.
const Built = false

// On says whether a bug is planted: never, in this build.
func On(string) bool { return false }

// Plant plants a bug by its name, in place of the one before; "" is none.
func Plant(name string) {
	if name != "" {
		panic("mutant: this program carries no planted bugs, and so not " + name + ": build it with -tags mutants")
	}
}
