package redistest_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// ask sends one line and returns the first line of the answer.
func ask(t *testing.T, s *redistest.Server, line string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s\r\n", line); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func TestNamespacesAreApart(t *testing.T) {
	t.Parallel()
	a, b := redistest.Namespace(t), redistest.Namespace(t)
	if a == b || !strings.HasPrefix(a, "testnamespacesareapart-") {
		t.Errorf("Namespace = %q and %q", a, b)
	}
	if got := ask(t, redistest.Shared(t), "PING"); got != "+PONG" {
		t.Errorf("PING = %s", got)
	}
}

func TestOwnServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	if s.Addr == redistest.Shared(t).Addr {
		t.Fatal("the test's own server is the shared one")
	}
	if got := ask(t, s, "CONFIG GET maxmemory-policy"); got != "*2" {
		t.Errorf("CONFIG GET = %s", got)
	}
	for name, empty := range map[string]func(testing.TB){"FlushAll": s.FlushAll, "Restart": s.Restart} {
		if got := ask(t, s, "SET k v"); got != "+OK" {
			t.Errorf("SET = %s", got)
		}
		empty(t)
		if got := ask(t, s, "EXISTS k"); got != ":0" {
			t.Errorf("after %s EXISTS = %s, want :0", name, got)
		}
	}
	s.Kill(t)
	if conn, err := net.Dial("tcp", s.Addr); err == nil {
		_ = conn.Close()
		t.Error("a killed server answers")
	}
	s.Start(t)
	s.Stop(t)
	if conn, err := net.Dial("tcp", s.Addr); err == nil {
		_ = conn.Close()
		t.Error("a stopped server answers")
	}
}
