// Package schedule chooses a host for a VM, and can say why not the others.
//
// # The model
//
// A VM needs resources, one of some hypervisors, and hosts with certain labels.
// A host has a capacity and what is used of it. The load of a host is its
// dominant share: the largest of used/capacity over vcpus, memory and disk
// (Ghodsi et al., Dominant Resource Fairness, NSDI 2011). Spread, the policy,
// takes the first host that fits in the order of
//
//	(load, instances, id)
//
// so that VMs go where most is left, and equal hosts get equal numbers. The
// caller keeps its hosts in that order (see [Key]); the first one nearly always
// fits, so a choice does not look at the whole cluster.
//
// A hypervisor is a number with some bits, the things that it does: the names
// that an obstacle needs come with the need.
//
// What keeps a VM off a host is an [Obstacle], a value that can explain itself.
// A host fits exactly when it has none: there is one rule, not a fast one and a
// talkative one.
//
// The package is a leaf: no clock, no state, the same answer on every replica.
package schedule
