// Package fuzz throws bytes at everything that decodes or decides: what comes
// from the wire, what is replayed from the log, what was recorded. Decoders that
// need what their package does not export are fuzzed beside it: lease pages and
// the shim's protocol in vmm/shim, database files in core/bolt, frames in rpc,
// spec files in cmd/blixard.
//
// Each target runs its seeds with the ordinary tests. For longer:
//
//	go test ./fuzz -fuzz=FuzzApply -fuzztime=1m
package fuzz
