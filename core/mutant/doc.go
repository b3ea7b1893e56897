// Package mutant is where bugs are planted, to see that the simulator finds them.
//
// A judge that cannot fail is no judge. So some eighty bugs are written into the
// code, each behind a question, and package sim/mutants says of each who must
// find it:
//
//	if op.Term != e.term && !mutant.On("FenceOfOldTerm") {
//
// Without the build tag "mutants" On is a constant false: the compiler removes
// the question, the bug and its name, and a test looks into the programs of
// production to see that it has. With the tag all bugs are in one build, and
// Plant chooses one of them by its name.
//
// A bug that can be a lie of the simulated world (a disk that forgets, a host
// that boasts) is planted there, and costs the code of production nothing. In
// that code a bug is one condition in the line that it breaks, never a branch of
// its own that a reader must step over.
package mutant
