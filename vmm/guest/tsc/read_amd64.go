package tsc

// read is the counter now; in read_amd64.s.
func read() uint64
