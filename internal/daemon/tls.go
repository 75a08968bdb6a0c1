package daemon

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/freshet/freshet/internal/config"
)

// certificates is how the gateway speaks TLS, nil when it does not. The files are read for every connection: certificates are
// renewed while the daemon runs. What cannot be read then leaves the one before in use.
func certificates(files config.TLS) (*tls.Config, error) {
	if files.CertFile == "" {
		return nil, nil //nolint:nilnil // none is what the file asks for
	}
	first, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	var last atomic.Pointer[tls.Certificate]
	last.Store(&first)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile); err == nil {
				last.Store(&pair)
			}
			return last.Load(), nil
		},
	}, nil
}

// serve answers requests until the server is shut down.
func serve(server *http.Server, listener net.Listener) error {
	if server.TLSConfig != nil {
		return server.ServeTLS(listener, "", "")
	}
	return server.Serve(listener)
}

// Trust is how a command connects to the daemon of its own file, nil when that speaks no TLS: the daemon shows the very
// certificate that the file names. Whose names are in it is for others to compare, who do not have the file.
func Trust(files config.TLS) (*tls.Config, error) {
	if files.CertFile == "" {
		return nil, nil //nolint:nilnil // none is what the file asks for
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // compared below, byte by byte
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, pair.Certificate[0]) {
				return errors.New("the daemon shows another certificate than the one in tls.cert_file")
			}
			return nil
		},
	}, nil
}
