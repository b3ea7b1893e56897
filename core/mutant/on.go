//go:build mutants

package mutant

// Built says whether this program carries planted bugs at all.
const Built = true

var planted string

// On says whether a bug is planted.
func On(name string) bool { return planted == name }

// Plant plants a bug by its name, in place of the one before; "" is none.
func Plant(name string) { planted = name }
