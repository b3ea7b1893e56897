package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/alecthomas/kong"

	"github.com/blixard/blixard/rpc"
)

// Exit codes, as scripts know them.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4
	exitNoQuorum = 5
	exitTimeout  = 6
	exitPartial  = 7
	// exitInterrupted is what shells make of a SIGINT.
	exitInterrupted = 130
)

const exitCodes = "Exit codes: 1 error, 2 wrong usage or input, 3 not found, 4 refused as things are, 5 no quorum, " +
	"6 out of time, 7 some of several failed, 130 interrupted."

// failure is an error as a user should see it.
type failure struct {
	code int
	what string
	why  string
	next string // what to do next
	// id of the request, when the server named it
	request string
}

func (f *failure) Error() string {
	if f.why == "" {
		return f.what
	}
	return f.what + ": " + f.why
}

func usagef(format string, args ...any) *failure {
	return &failure{code: exitUsage, what: fmt.Sprintf(format, args...)}
}

// explain prints an error and returns the exit code it stands for.
func explain(w io.Writer, err error, requestID string) int {
	if err == nil {
		return exitOK
	}
	var program programExit
	if errors.As(err, &program) {
		return int(program)
	}
	f := asFailure(err)
	fmt.Fprintf(w, "blixard: %s\n", f.what)
	if f.why != "" {
		fmt.Fprintf(w, "  why:     %s\n", f.why)
	}
	if f.next != "" {
		fmt.Fprintf(w, "  next:    %s\n", f.next)
	}
	if f.request != "" {
		requestID = f.request
	}
	var made *requestError
	if errors.As(err, &made) {
		requestID = made.id
	}
	if requestID != "" {
		fmt.Fprintf(w, "  request: %s\n", requestID)
	}
	return f.code
}

// requestError remembers under which id a change was asked for.
type requestError struct {
	id  string
	err error
}

func (e *requestError) Error() string { return e.err.Error() }
func (e *requestError) Unwrap() error { return e.err }

func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var c *connect.Error
	if errors.As(err, &c) {
		return fromConnect(err, c)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &failure{code: exitTimeout, what: "timed out", why: err.Error(), next: "allow more with --timeout"}
	}
	return &failure{code: exitError, what: err.Error()}
}

func fromConnect(err error, c *connect.Error) *failure {
	f := &failure{code: exitError, what: c.Message()}
	detail, id := rpc.Refused(err)
	if detail != nil {
		f.what, f.next = detail.GetMessage(), detail.GetAdvice()
		if detail.GetField() != "" {
			f.what = detail.GetField() + ": " + f.what
		}
	}
	f.request = id
	// What we were doing when it happened, when somebody said so.
	if doing, ok := strings.CutSuffix(err.Error(), ": "+c.Error()); ok && doing != "" {
		f.what, f.why = doing, f.what
	}
	if detail == nil {
		noChannel(f, c.Message())
	}
	switch c.Code() {
	case connect.CodeInvalidArgument:
		f.code = exitUsage
	case connect.CodeNotFound:
		f.code = exitNotFound
	case connect.CodeAlreadyExists, connect.CodeAborted, connect.CodeFailedPrecondition:
		f.code = exitConflict
	case connect.CodeResourceExhausted:
		if detail != nil { // it is no answer that is too large
			f.code = exitConflict
		}
	case connect.CodeDeadlineExceeded:
		f.code = exitTimeout
		f.next = or(f.next, "allow more with --timeout; the same --request-id again is safe")
	case connect.CodeUnavailable:
		if detail != nil {
			f.code = exitNoQuorum
			f.next = or(f.next, "blixard cluster status says which servers are missing; the same --request-id again is safe")
		} else {
			f.next = or(f.next, "is a node running there? blixard serve starts one, --server names another")
		}
	}
	return f
}

// noChannel explains what went wrong before a server could read what we asked.
func noChannel(f *failure, message string) {
	switch {
	case message == "400 Bad Request": // Go's answer to plain HTTP on a TLS port
		f.what, f.why = "the server did not take us for a client of its own", "it listens with TLS, and we came without"
		f.next = "give --tls-cert, --tls-key and --tls-ca"
	case strings.Contains(message, "server gave HTTP response to HTTPS client"):
		f.what, f.why = "the server listens without TLS, and we came with it", message
		f.next = "leave out --tls-cert, --tls-key and --tls-ca"
	case strings.Contains(message, "x509: "), strings.Contains(message, "tls: "):
		f.what, f.why = "the server and we do not believe each other's certificates", message
		f.next = "--tls-ca must have signed the server's certificate, the server's own CA must have signed --tls-cert, and the server's must name the address in --server"
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// usageError turns what kong says of a command line into a failure. Kong has
// printed nothing yet: a short hint is worth more than a page of usage.
func usageError(args []string, err error) *failure {
	f := usagef("%s", err.Error())
	path := []string{"blixard"}
	var p *kong.ParseError
	if errors.As(err, &p) && p.Context != nil {
		for _, n := range p.Context.Path {
			if n.Command != nil {
				path = append(path, n.Command.Name)
			}
		}
	}
	f.next = strings.Join(path, " ") + " --help"
	return f
}
