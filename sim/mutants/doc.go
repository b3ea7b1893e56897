// Package mutants lists the bugs that are planted on purpose, and says of each
// who must find it and how soon.
//
// # The model
//
//	core/mutant     On("Name"), in the line that the bug breaks: false for ever
//	                without the build tag "mutants"
//	sim/mutants     All: what each bug is, who must find it, and where it can be found
//	scripts/mutants builds blixard-sim with the tag, runs each bug in a process of
//	                its own, and prints the table
//
// A bug is looked for in seeds, one after the other, as a soak does; or, where
// several things must go wrong at once, in a [sim.Story] that lets just those go
// wrong. A story must pass without its bug. Found is found only by the promise
// that the table names: a bug that is found by accident, by another judge, is
// one whose own judge may be blind.
package mutants
