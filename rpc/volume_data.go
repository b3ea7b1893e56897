package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/blixard/blixard/core/cluster"
	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// Disks is where what the disks of this host hold is read and written.
type Disks interface {
	// ReadDisk sends what a volume holds, or else a disk of a VM's own. What was
	// sent counts only when it has returned nil.
	ReadDisk(ctx context.Context, volume, vm, disk string, send func(*blixardv1.VolumeData) error) error
	// WriteVolume makes an ordered volume of what next gives, whole or not at all.
	WriteVolume(ctx context.Context, volume string, next func() (*blixardv1.VolumeData, error)) error
	// ReadSnapshot sends the files of a snapshot, and WriteSnapshot makes one of such
	// files, whole or not at all.
	ReadSnapshot(ctx context.Context, snapshot string, send func(*blixardv1.VolumeData) error) error
	WriteSnapshot(ctx context.Context, snapshot string, next func() (*blixardv1.VolumeData, error)) (*blixardv1.SnapshotImage, error)
}

// Between nodes a disk travels as frames, each a byte that says what it is and a
// VolumeData, or why it ends.
const (
	diskPath = "/blixard.internal/v1/disk"

	diskPart   = 0
	diskFailed = 1
	mostPart   = 512 << 10
	// diskStalled is how long who reads or writes a disk may take over one part.
	diskStalled = 2 * time.Minute
)

// serveDisk reads a disk of this host for another node, or writes one.
func (s *Server) serveDisk(w http.ResponseWriter, r *http.Request) {
	if !nodeOnly(w, r, s.cfg.TLS) {
		return
	}
	if s.cfg.Disks == nil {
		http.Error(w, "this node is no host", http.StatusNotFound)
		return
	}
	q, control := r.URL.Query(), http.NewResponseController(w)
	if r.Method == http.MethodPost {
		in := bufio.NewReader(r.Body)
		image, err := s.writeHere(r.Context(), q, func() (*blixardv1.VolumeData, error) {
			control.SetReadDeadline(time.Now().Add(diskStalled))
			return readPart(in)
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		} else if image != nil {
			_, _ = w.Write(blixardv1.Encode(image)) // who is gone asks again
		}
		return
	}
	write := func(kind byte, b []byte) error {
		control.SetWriteDeadline(time.Now().Add(diskStalled))
		if _, err := w.Write(appendFrame(nil, append([]byte{kind}, b...))); err != nil {
			return err
		}
		return control.Flush()
	}
	err := s.readHere(r.Context(), q, func(p *blixardv1.VolumeData) error {
		return write(diskPart, blixardv1.Encode(p))
	})
	if err != nil {
		_ = write(diskFailed, []byte(err.Error())) // who is gone needs no reason
	}
}

// readHere sends what this host has, as a query says: a volume, a VM's disk, a snapshot.
func (s *Server) readHere(ctx context.Context, q url.Values, send func(*blixardv1.VolumeData) error) error {
	if uid := q.Get("snapshot"); uid != "" {
		return s.cfg.Disks.ReadSnapshot(ctx, uid, send)
	}
	return s.cfg.Disks.ReadDisk(ctx, q.Get("volume"), q.Get("vm"), q.Get("disk"), send)
}

// writeHere makes a volume or, which gives an image, a snapshot.
func (s *Server) writeHere(ctx context.Context, q url.Values, next func() (*blixardv1.VolumeData, error)) (*blixardv1.SnapshotImage, error) {
	if uid := q.Get("snapshot"); uid != "" {
		return s.cfg.Disks.WriteSnapshot(ctx, uid, next)
	}
	return nil, s.cfg.Disks.WriteVolume(ctx, q.Get("volume"), next)
}

// readPart reads one part; io.EOF when there is none left.
func readPart(r io.Reader) (*blixardv1.VolumeData, error) {
	var buf bytes.Buffer
	if err := readFrame(r, &buf, mostPart); err != nil {
		return nil, err
	}
	b := buf.Bytes()
	switch {
	case len(b) > 0 && b[0] == diskFailed:
		return nil, errors.New(string(b[1:]))
	case len(b) == 0 || b[0] != diskPart:
		return nil, errors.New("a frame that nobody knows")
	}
	p := &blixardv1.VolumeData{}
	return p, proto.Unmarshal(b[1:], p)
}

func (s volumes) Read(ctx context.Context, req *connect.Request[blixardv1.VolumeServiceReadRequest], stream *connect.ServerStream[blixardv1.VolumeServiceReadResponse]) error {
	return wire(s.readDisk(ctx, req.Msg, func(p *blixardv1.VolumeData) error {
		return stream.Send(&blixardv1.VolumeServiceReadResponse{Data: p})
	}), "")
}

func (s volumes) readDisk(ctx context.Context, m *blixardv1.VolumeServiceReadRequest, send func(*blixardv1.VolumeData) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(s.stoppingError()) })()
	q, host, err := s.locate(ctx, m)
	if err != nil {
		return err
	}
	err = s.readAt(ctx, host, q, send)
	if err == nil || connect.CodeOf(err) != connect.CodeUnknown {
		return err
	}
	return refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", err.Error(), "stop the VM that has the disk, or pause it, and ask again; 'blixard node get "+host.Name+"' shows its host")
}

// locate finds the host of a disk, and what it is called there.
func (s volumes) locate(ctx context.Context, m *blixardv1.VolumeServiceReadRequest) (url.Values, *blixardv1.Node, error) {
	if m.Vm == "" {
		view, v, err := s.find(ctx, m.Name, false)
		if err != nil {
			return nil, nil, err
		}
		if host := view.Node(v.NodeId); host != nil && v.Status.GetMade() {
			return url.Values{"volume": {v.Uid}}, host, nil
		}
		return nil, nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", "the volume "+v.Name+" is nowhere: "+v.Status.GetMessage(), "")
	}
	if err := check(cluster.ValidateName(m.Vm)); err != nil {
		return nil, nil, err
	}
	view, err := s.read(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	vm := view.VM(m.Vm)
	host := view.Node(vm.GetPlacement().GetNodeId())
	for _, d := range vm.GetSpec().GetImage().GetDisks() {
		if d.Name == m.Disk && host != nil {
			return url.Values{"vm": {vm.Uid}, "disk": {m.Disk}}, host, nil
		}
	}
	return nil, nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NOT_FOUND, "", fmt.Sprintf("there is no disk %q of a VM %q on any host", m.Disk, m.Vm), "'blixard vm get "+m.Vm+" -o yaml' shows its disks")
}

// readAt sends what a host has.
func (s *Server) readAt(ctx context.Context, host *blixardv1.Node, q url.Values, send func(*blixardv1.VolumeData) error) error {
	if host.Id == s.cfg.Backend.Status().Identity.ID && s.cfg.Disks != nil {
		return s.readHere(ctx, q, send)
	}
	resp, err := s.askDisk(ctx, http.MethodGet, host, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		p, err := readPart(in)
		if errors.Is(err, io.EOF) {
			return nil // the end is in the data: who gets none knows
		}
		if err != nil {
			return fmt.Errorf("on %s: %w", host.Name, err)
		}
		if err := send(p); err != nil {
			return err
		}
	}
}

// askDisk asks the host of a disk; an answer is a good one.
func (s *Server) askDisk(ctx context.Context, method string, host *blixardv1.Node, q url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: s.cfg.TLS.scheme(), Host: host.Address, Path: diskPath, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := s.call.Do(req)
	if err != nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_NO_QUORUM, "", fmt.Sprintf("the host %s (%s) cannot be reached: %v", host.Name, host.Address, errors.Unwrap(err)), "see 'blixard node get "+host.Name+"'")
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	return nil, fmt.Errorf("%s: %s", host.Name, bytes.TrimSpace(why))
}

func (s volumes) Write(ctx context.Context, stream *connect.ClientStream[blixardv1.VolumeServiceWriteRequest]) (*connect.Response[blixardv1.VolumeServiceWriteResponse], error) {
	v, err := s.write(ctx, stream)
	if err != nil {
		drain(ctx, s.Server, stream)
	}
	return answer(&blixardv1.VolumeServiceWriteResponse{Volume: v}, "", err)
}

// parts are a stream of a disk's, or a snapshot's.
type parts[T any] interface {
	*T
	GetData() *blixardv1.VolumeData
}

// following gives a stream's parts, of which the first has come: io.EOF after the last.
func following[T any, P parts[T]](first *blixardv1.VolumeData, stream *connect.ClientStream[T]) func() (*blixardv1.VolumeData, error) {
	return func() (*blixardv1.VolumeData, error) {
		if p := first; p != nil {
			first = nil
			return p, nil
		}
		if !stream.Receive() {
			if err := stream.Err(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
		return proto.CloneOf(P(stream.Msg()).GetData()), nil
	}
}

// drain reads some of what follows a refusal, as Upload does.
func drain[T any, P parts[T]](ctx context.Context, s *Server, stream *connect.ClientStream[T]) {
	for n := 0; n < maxDrain && ctx.Err() == nil && s.stopping.Err() == nil && stream.Receive(); {
		n += len(P(stream.Msg()).GetData().GetChunk().GetData()) + 1
	}
}

// volumeMade is how long a host may take to say that it has what it was sent.
const volumeMade = time.Minute

func (s volumes) write(ctx context.Context, stream *connect.ClientStream[blixardv1.VolumeServiceWriteRequest]) (*blixardv1.ClusterVolume, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(s.stoppingError()) })()
	if !stream.Receive() {
		return nil, errors.Join(stream.Err(), refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "options", "nothing came", "send options and a header first"))
	}
	opts, first := proto.CloneOf(stream.Msg().GetOptions()), proto.CloneOf(stream.Msg().GetData())
	h := first.GetHeader()
	if opts == nil || h == nil {
		return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_INVALID, "options", "the first message has no options, or no header", "send both first, then the chunks")
	}
	spec := &blixardv1.VolumeSpec{SizeMib: h.SizeMib, Format: h.Format}
	if err := check(cluster.ValidateVolume(opts.Name, spec)); err != nil {
		return nil, err
	}
	resp, _, err := s.mutate(ctx, opts.RequestId, &blixardv1.Command{Op: &blixardv1.Command_CreateVolume{CreateVolume: &blixardv1.CreateVolumeOp{
		Name: opts.Name, Spec: spec, Host: opts.Host, Written: true, Beside: opts.Beside}}})
	if err != nil {
		return nil, err
	}
	v := resp.GetVolume()
	if err = s.send(ctx, v, following(first, stream)); err == nil {
		if v, err = s.made(ctx, v); err == nil {
			return v, nil
		}
	}
	// Half a volume is of no use. Where it cannot be taken back now it is listed as
	// one that is being made, and can be deleted by its name.
	undo, end := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer end()
	_, _, _ = s.mutate(undo, "", &blixardv1.Command{Op: &blixardv1.Command_DeleteVolume{DeleteVolume: &blixardv1.DeleteVolumeOp{Name: v.GetName(), Uid: v.GetUid()}}})
	var r *Refusal
	if errors.As(err, &r) {
		return nil, err
	}
	return nil, refuse(blixardv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION, "", fmt.Sprintf("the volume %s was not written: %v", opts.Name, err), "see what is wrong, and send all of it again")
}

// send brings what comes to the volume's host.
func (s volumes) send(ctx context.Context, v *blixardv1.ClusterVolume, next func() (*blixardv1.VolumeData, error)) error {
	view, err := s.read(ctx, true)
	if err != nil {
		return err
	}
	host := view.Node(v.NodeId)
	if host == nil {
		return errors.New("its host is gone")
	}
	_, err = s.writeAt(ctx, host, url.Values{"volume": {v.Uid}}, next)
	return err
}

// writeAt brings what comes to a host.
func (s *Server) writeAt(ctx context.Context, host *blixardv1.Node, q url.Values, next func() (*blixardv1.VolumeData, error)) (*blixardv1.SnapshotImage, error) {
	if host.Id == s.cfg.Backend.Status().Identity.ID && s.cfg.Disks != nil {
		return s.writeHere(ctx, q, next)
	}
	out, in := io.Pipe()
	go func() {
		for {
			p, err := next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					err = errors.Join(err, errors.New("it was cut off"))
				}
				in.CloseWithError(err)
				return
			}
			if _, err := in.Write(appendFrame(nil, append([]byte{diskPart}, blixardv1.Encode(p)...))); err != nil {
				return // the answer says why
			}
		}
	}()
	defer out.CloseWithError(io.ErrClosedPipe)
	resp, err := s.askDisk(ctx, http.MethodPost, host, q, out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	image := &blixardv1.SnapshotImage{}
	return image, proto.Unmarshal(b, image)
}

// made waits until the host's report that it has a volume is in the state.
func (s volumes) made(ctx context.Context, v *blixardv1.ClusterVolume) (*blixardv1.ClusterVolume, error) {
	for end := time.Now().Add(volumeMade); ; {
		view, err := s.read(ctx, true)
		if err != nil {
			return v, err
		}
		if is := view.VolumeByUID(v.Uid); is == nil || is.Status.GetMade() || time.Now().After(end) {
			if is.GetStatus().GetMade() {
				return is, nil
			}
			return v, errors.New("its host has not said that it has it")
		}
		select {
		case <-ctx.Done():
			return v, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
