// Package nixflake turns a VM's spec into a flake that Nix can build.
//
// # The model
//
//	spec ──Render──► files ──nix build──► a microvm.nix runner
//
// Render is a pure function: the same spec and the same pins give the same
// bytes, so a hash of the files names what would be built. It reads no disk.
// Where a module of the spec is an artifact, the file that Render returns names
// its digest, and whoever writes the files puts the content there.
//
// A NixOS spec becomes a flake on flake-parts:
//
//	flake.nix              inputs, and blixard.vms.NAME
//	flake.lock             the operator's pins, when there are any
//	modules/00-inline.nix  each inline or file module, in the order of the spec
//	blixard-modules/...    our own modules, unless the pins name another place
//
// with nixosConfigurations.NAME and packages.SYSTEM.NAME, the runner, for both
// systems. A reference to the user's own flake becomes a flake with one input,
// source, that finds the runner in it; so both are locked and built alike, as
// packages.SYSTEM.NAME.
//
// # What is code
//
// An inline module is code, and stands in a file of its own. Nothing else that
// a user types is: it passes through escape.go, which is the only place that
// writes a user's text into Nix. It becomes a string, never a path literal, a
// bare name or an interpolation.
//
// # Identity
//
// What a VM's owner left open (addresses, names of taps, the machine id) is
// derived from its uid by Identity, and is therefore the same on every host and
// after every rebuild.
//
// The modules themselves are in modules/, embedded here, and a flake of their
// own: docs/modules.md.
package nixflake
