package redisstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/redis/rueidis"
)

// The parameters of an address that name files for TLS, as those of PostgreSQL's addresses do.
const rootCertificate, certificate, certificateKey = "sslrootcert", "sslcert", "sslkey"

// certify has connections use the certificates that an address names: who may sign the servers', and the client's own.
func certify(option *rueidis.ClientOption, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse redis url: %w", maskURL(err, address))
	}
	root, own, key := u.Query().Get(rootCertificate), u.Query().Get(certificate), u.Query().Get(certificateKey)
	switch {
	case root == "" && own == "" && key == "":
		return nil
	case option.TLSConfig == nil:
		return fmt.Errorf("parse redis url: %s, %s and %s are for TLS: write rediss:// instead of redis://", rootCertificate, certificate, certificateKey)
	case (own == "") != (key == ""):
		return fmt.Errorf("parse redis url: %s and %s go together", certificate, certificateKey)
	}
	if root != "" {
		text, err := os.ReadFile(root) //nolint:gosec // the file that whoever configures names
		if err != nil {
			return fmt.Errorf("read %s of the redis url: %w", rootCertificate, err)
		}
		option.TLSConfig.RootCAs = x509.NewCertPool()
		if !option.TLSConfig.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("read %s of the redis url: %w", rootCertificate, errors.New(root+" has no certificate in PEM"))
		}
	}
	if own == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(own, key); err != nil {
		return fmt.Errorf("read %s and %s of the redis url: %w", certificate, certificateKey, err)
	}
	// For every connection anew: certificates are renewed while processes run.
	option.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(own, key)
		return &pair, err
	}
	return nil
}
