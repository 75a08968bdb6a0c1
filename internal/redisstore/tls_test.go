package redisstore

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// with is an address with other certificates; an empty one is left out.
func with(tb testing.TB, address string, files map[string]string) string {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	query := u.Query()
	for name, file := range files {
		query.Del(name)
		if file != "" {
			query.Set(name, file)
		}
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// TestTLS has a server that speaks it, and with whoever shows a certificate.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := redistest.StartTLS(t)
	s := openURL(t, server.URL)
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	leased(t, s, s.testName("k"), token('a'))
	survey, err := OpenSurvey(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	survey.Close()

	for name, address := range map[string]string{
		"without a certificate":  with(t, server.URL, map[string]string{"sslcert": "", "sslkey": ""}),
		"of nobody's authority":  with(t, server.URL, map[string]string{"sslrootcert": ""}),
		"without TLS":            "redis" + strings.TrimPrefix(with(t, server.URL, map[string]string{"sslrootcert": "", "sslcert": "", "sslkey": ""}), "rediss"),
		"by another server name": strings.Replace(server.URL, "127.0.0.1", "localhost", 1),
	} {
		if _, _, err := openURL(t, address).Head(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, address := range map[string]string{
		"are for TLS: write rediss://":               "redis" + strings.TrimPrefix(server.URL, "rediss"),
		"sslcert and sslkey go together":             with(t, server.URL, map[string]string{"sslkey": ""}),
		"read sslrootcert of the redis url: open no": with(t, server.URL, map[string]string{"sslrootcert": "none.pem"}),
		"has no certificate in PEM":                  with(t, server.URL, map[string]string{"sslrootcert": empty}),
		"read sslcert and sslkey of the redis url":   with(t, server.URL, map[string]string{"sslcert": empty}),
	} {
		if s, err := Open(t.Context(), Options{URL: address, Namespace: "n"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open = %v, %v, want %q", s, err, want)
		}
	}
}

// TestSentinelWithTLS has Sentinels, master and replica speak TLS with each other and with us, through a failover.
func TestSentinelWithTLS(t *testing.T) {
	t.Parallel()
	master := redistest.StartTLS(t)
	replica := master.Replica(t)
	sentinels := master.Watch(t, 3, 1)
	s := openURL(t, sentinels.URL)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	leased(t, s, s.testName("k"), token('a'))
	testkit.Eventually(t, 10*time.Second, func() error { // each may be late once
		if at := s.Sentinels(t.Context()); len(at.Silent) != 0 || at.Named != 3 || at.Known != 3 || at.Replicas != 1 {
			return fmt.Errorf("the Sentinels are %+v", at)
		}
		return nil
	})
	master.CaughtUp(t, replica)
	master.Kill(t)
	sentinels.Master(t, replica)
	testkit.Eventually(t, 10*time.Second, func() error {
		h, found, err := s.Head(t.Context())
		if err == nil && (!found || h.Generation != head.Generation) {
			err = fmt.Errorf("readers find HEAD %+v, want the replica's", h)
		}
		return err
	})
	if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Ping over the old master's connection = %v", err)
	}
	next := connect(t, s)
	if got, found, err := next.Claim(t.Context(), head.Term); err != nil || !found || got.Generation != head.Generation {
		t.Fatalf("Claim on the new master = %+v, %v, %v", got, found, err)
	}
	if got := filled(t, s, s.testName("k"), token('a'), 10); got != fence.Filled {
		t.Errorf("Fill = %v", got)
	}
}
