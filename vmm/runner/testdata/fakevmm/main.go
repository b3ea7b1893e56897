// fakevmm is package fakevmm as a program of its own: linked statically, since where it
// runs there are no libraries.
package main

import "github.com/blixard/blixard/vmm/runner/fakevmm"

func main() { fakevmm.Main() }
