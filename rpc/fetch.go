package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
	"github.com/blixard/blixard/proto/blixard/v1/blixardv1connect"
)

// Fetcher opens artifacts that other nodes hold.
type Fetcher struct {
	tls  *TLS
	http *http.Client
}

// NewFetcher makes a Fetcher.
func NewFetcher(t *TLS) *Fetcher {
	return &Fetcher{tls: t, http: &http.Client{Transport: transport(t)}}
}

// fetchSilent ends a stream on which nothing has come for so long.
const fetchSilent = 15 * time.Second

// Fetch opens the artifact at the first address of its source that answers.
// Nothing is verified here: the store does that.
func (f *Fetcher) Fetch(ctx context.Context, source *blixardv1.ArtifactSource) (io.ReadCloser, error) {
	errs := []error{fmt.Errorf("fetch %s", source.GetArtifact().GetDigest())}
	for _, address := range source.GetAddresses() {
		r, err := f.open(ctx, address, source.GetArtifact().GetDigest())
		if err == nil {
			return r, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	if len(source.GetAddresses()) == 0 {
		errs = append(errs, errors.New("no node that holds it is known: upload it again"))
	}
	return nil, errors.Join(errs...)
}

func (f *Fetcher) open(ctx context.Context, address, digest string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	d := &download{cancel: cancel}
	d.watchdog = time.AfterFunc(fetchSilent, func() { cancel(fmt.Errorf("nothing came for %s", fetchSilent)) })
	d.ctx = ctx
	c := blixardv1connect.NewArtifactServiceClient(f.http, f.tls.scheme()+"://"+address, plain())
	stream, err := c.Download(ctx, connect.NewRequest(&blixardv1.DownloadRequest{Digest: digest}))
	if err != nil {
		d.Close()
		return nil, err
	}
	d.stream = stream
	// The first piece tells whether the node has it at all.
	if d.fill(); d.err != nil && d.err != io.EOF {
		d.Close()
		return nil, d.err
	}
	return d, nil
}

// download is a stream of pieces as a reader.
type download struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	stream   *connect.ServerStreamForClient[blixardv1.DownloadResponse]
	rest     []byte
	err      error
}

func (d *download) fill() {
	for len(d.rest) == 0 && d.err == nil {
		switch {
		case d.stream.Receive():
			d.watchdog.Reset(fetchSilent)
			d.rest = d.stream.Msg().GetData()
		case d.ctx.Err() != nil:
			d.err = context.Cause(d.ctx)
		case d.stream.Err() != nil:
			d.err = d.stream.Err()
		default:
			d.err = io.EOF
		}
	}
}

func (d *download) Read(b []byte) (int, error) {
	if d.fill(); len(d.rest) == 0 {
		return 0, d.err
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *download) Close() error {
	d.watchdog.Stop()
	d.cancel(nil)
	if d.stream != nil {
		return d.stream.Close()
	}
	return nil
}
