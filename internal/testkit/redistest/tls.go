package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/localserver"
)

// secure is how a server speaks TLS: at a port of its own, with a certificate by an authority that was made for the test,
// and to clients that have one as well. Its usual port stays open to the test.
type secure struct {
	port           int
	root, own, key string // files
}

// StartTLS is Start for a server that speaks TLS, whose URL leads there; so do its replicas and its Sentinels.
func StartTLS(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return startSecure(tb, certificates(tb), localserver.RedisOptions{Args: args})
}

// startFrom is StartWith for a server that speaks as another one does.
func startFrom(tb testing.TB, like *Server, options localserver.RedisOptions) *Server {
	tb.Helper()
	if like.secure == nil {
		return StartWith(tb, options)
	}
	return startSecure(tb, *like.secure, options)
}

func startSecure(tb testing.TB, s secure, options localserver.RedisOptions) *Server {
	tb.Helper()
	var err error
	if s.port, err = localserver.FreePort(); err != nil {
		tb.Fatal(err)
	}
	options.Args = append([]string{
		"--tls-port", strconv.Itoa(s.port), "--tls-replication", "yes", "--tls-auth-clients", "yes",
		"--tls-ca-cert-file", s.root, "--tls-cert-file", s.own, "--tls-key-file", s.key,
	}, options.Args...)
	server := StartWith(tb, options)
	server.secure = &s
	server.URL = "rediss://" + server.peer() + "/0?" + s.query()
	return server
}

// peer is the address at which other servers and clients reach this one.
func (s *Server) peer() string {
	if s.secure == nil {
		return s.Addr
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.secure.port))
}

// query is the part of an address that names the certificates.
func (s *secure) query() string {
	return url.Values{"sslrootcert": {s.root}, "sslcert": {s.own}, "sslkey": {s.key}}.Encode()
}

// certificates makes an authority, and one certificate by it, for everybody on loopback.
func certificates(tb testing.TB) secure {
	tb.Helper()
	dir := filepath.Dir(tb.TempDir())            // of the test, and its own alone
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // servers that root starts run as another user
		tb.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // the same
			tb.Fatal(err)
		}
		return path
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		}
	}
	sign := func(of, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, of, by, &key.PublicKey, byKey)
		if err != nil {
			tb.Fatal(err)
		}
		return der
	}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			tb.Fatal(err)
		}
	}
	root := template(1, "the test's authority")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	own := template(2, "the test's servers and clients")
	own.IPAddresses, own.KeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, x509.KeyUsageDigitalSignature
	own.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	key, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		tb.Fatal(err)
	}
	return secure{
		root: write("root.pem", "CERTIFICATE", sign(root, root, keys[0], keys[0])),
		own:  write("own.pem", "CERTIFICATE", sign(own, root, keys[1], keys[0])),
		key:  write("own.key", "PRIVATE KEY", key),
	}
}
