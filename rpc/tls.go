package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// TLS is what a node or a client shows, and whom it believes: TLS 1.3, mutual.
// A nil *TLS is no TLS.
type TLS struct {
	cert, key string
	ca        *x509.CertPool

	mu      sync.Mutex
	pair    *tls.Certificate
	changed [2]time.Time // of the files that pair was read from
	looked  time.Time
}

// LoadTLS reads a certificate, its key and the CA's certificates, all PEM. All
// three paths empty means no TLS: nil and no error. A certificate that is
// replaced on disk is used for new connections within a minute; a new CA needs
// a restart.
func LoadTLS(cert, key, ca string) (*TLS, error) {
	if cert == "" && key == "" && ca == "" {
		return nil, nil
	}
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("tls: cert, key and ca must be given together, because every channel is mutual: give all three files, or none for loopback only")
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("tls: read the CA: %w", err)
	}
	t := &TLS{cert: cert, key: key, ca: x509.NewCertPool()}
	if !t.ca.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls: %s holds no PEM certificate: give the certificate of the CA that signed those of the nodes", ca)
	}
	if _, err := t.certificate(); err != nil {
		return nil, err
	}
	return t, nil
}

// certificate returns the pair, read again when the files have changed. A pair
// that is half replaced does not load: the old one stays.
func (t *TLS) certificate() (*tls.Certificate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pair != nil && time.Since(t.looked) < 30*time.Second {
		return t.pair, nil
	}
	t.looked = time.Now()
	var changed [2]time.Time
	for i, path := range []string{t.cert, t.key} {
		if st, err := os.Stat(path); err == nil {
			changed[i] = st.ModTime()
		}
	}
	if t.pair != nil && changed == t.changed {
		return t.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err == nil {
		t.pair, t.changed = &pair, changed
	}
	if t.pair == nil {
		return nil, fmt.Errorf("tls: read the certificate %s and its key %s: %w", t.cert, t.key, err)
	}
	return t.pair, nil
}

// server wants a certificate of the CA from whoever connects.
func (t *TLS) server() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      t.ca,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.certificate() },
	}
}

// client wants a certificate of the CA that names the host dialled.
func (t *TLS) client() *tls.Config {
	if t == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    t.ca,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return t.certificate()
		},
	}
}

func (t *TLS) scheme() string {
	if t == nil {
		return "http"
	}
	return "https"
}

// isNode says whether a verified certificate is a node's: one that may serve.
// A certificate without any extended key usage may do everything.
func isNode(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// Listen opens the one port of a node. Beyond loopback it wants TLS: whoever
// can reach the port can run programs on the hosts.
func Listen(address string, t *TLS) (net.Listener, error) {
	if t == nil {
		if err := loopback(address); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err // it names the address; what to do is said by who asked for that
	}
	if t == nil {
		return l, nil
	}
	return tls.NewListener(l, t.server()), nil
}

func loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen: %w: give HOST:PORT, such as 127.0.0.1:7420", err)
	}
	ips := []net.IP{net.ParseIP(host)}
	if ips[0] == nil && host != "" {
		if ips, err = net.LookupIP(host); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return fmt.Errorf("listen: %s can be reached from other machines, and without TLS anybody there could run programs on this host: "+
				"set tls.cert, tls.key and tls.ca, or listen on a loopback address such as 127.0.0.1", address)
		}
	}
	return nil
}
