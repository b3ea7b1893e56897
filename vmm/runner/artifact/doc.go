// Package artifact keeps kernels, initrds and disks in a directory, each named
// by the SHA-256 of its bytes.
//
// # The model
//
//	DIR/sha256/ab/ab12...   one artifact, read-only, whole
//	DIR/tmp/                what is being written; emptied when the store is opened
//
// A file under its digest is whole: it was hashed while it was written, synced,
// and only then renamed. What a crash leaves is in tmp.
//
// # What is verified, and when
//
// Put hashes every byte that it writes. A stored artifact is hashed once more
// the first time that a process opens it, and again whenever its size, inode or
// change time is not what it was then; so a bit that flipped while the machine
// was off, or that somebody changed, is noticed before the bytes are used. One
// that flips under a running process, between two opens, is not: that is what
// the file system's own checksums are for. An artifact found wrong is removed,
// and the caller gets ErrCorrupt: fetch it again.
package artifact
