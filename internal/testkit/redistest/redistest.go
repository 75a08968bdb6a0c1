// Package redistest gives tests a private Redis or Valkey: one server for each test process, where tests keep apart by a
// namespace, or a server of the test's own. A missing server fails the test.
package redistest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// ProgramVariable names the environment variable that chooses the server to test with, by its path.
const ProgramVariable = "FRESHET_TEST_REDIS_SERVER"

// Server is a private Redis or Valkey.
type Server struct {
	Addr string // host:port
	URL  string // redis://host:port/0

	server   *localserver.Redis
	isShared bool
	secure   *secure // nil: it speaks no TLS
	bus      string  // the port of a cluster's own traffic
}

//nolint:gochecknoglobals // one server for each test process, ended by testkit.Main
var (
	shared = sync.OnceValues(func() (*Server, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		s, err := start(ctx, localserver.RedisOptions{})
		if err != nil {
			return nil, err
		}
		s.isShared = true
		testkit.AtEnd(s.server.Close)
		return s, nil
	})
	namespaces atomic.Int64
)

// Shared is the server that all tests of the process use, each with its own Namespace. It is not to be stopped.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Start starts a server for this test alone, with further command-line arguments; it ends with the test.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return StartWith(tb, localserver.RedisOptions{Args: args})
}

// StartWith is Start for a server that differs in more than its arguments.
func StartWith(tb testing.TB, options localserver.RedisOptions) *Server {
	tb.Helper()
	s, err := start(tb.Context(), options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.server.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func start(ctx context.Context, options localserver.RedisOptions) (*Server, error) {
	options.Program = os.Getenv(ProgramVariable)
	server, err := localserver.StartRedis(ctx, options)
	if err != nil {
		return nil, err
	}
	return &Server{Addr: server.Addr(), URL: server.URL(), server: server}, nil
}

// Namespace is a name for the keys of this test alone: lower-case letters, digits and hyphens.
func Namespace(tb testing.TB) string {
	tb.Helper()
	const longest = 30
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, tb.Name())
	return fmt.Sprintf("%s-%d", name[:min(len(name), longest)], namespaces.Add(1))
}

// FlushAll removes every key of a server that the test has for itself.
func (s *Server) FlushAll(tb testing.TB) {
	tb.Helper()
	s.act(tb, func(ctx context.Context) error {
		reply, err := s.server.Command(ctx, "FLUSHALL")
		if err == nil && reply != "+OK" {
			err = fmt.Errorf("FLUSHALL: %s", reply)
		}
		return err
	})
}

// Stop shuts the server down in order.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Stop)
}

// Start starts the stopped server again on the same port; it is empty unless its arguments made it persist.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Start)
}

// Restart stops and starts the server.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Restart)
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.act(tb, s.server.Kill)
}

// Freeze has the server stand still (SIGSTOP): connections to it stay, and nothing is answered.
func (s *Server) Freeze(tb testing.TB) {
	tb.Helper()
	s.act(tb, func(context.Context) error { return s.server.Freeze() })
}

// Thaw has the frozen server go on, with what was sent to it in the meantime.
func (s *Server) Thaw(tb testing.TB) {
	tb.Helper()
	s.act(tb, func(context.Context) error { return s.server.Thaw() })
}

func (s *Server) act(tb testing.TB, action func(context.Context) error) {
	tb.Helper()
	if s.isShared {
		tb.Fatal("the shared server is everybody's: use redistest.Start")
	}
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	if err := action(ctx); err != nil {
		tb.Fatal(err)
	}
}
