package pgload_test

import (
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// discreet is a pooler that tells its client the first server's process as the connection's own, and no other when it
// leads to another server: nothing but the process that answers shows that it is there.
type discreet struct {
	address string
	working sync.WaitGroup
	mu      sync.Mutex
	clients []*discreetClient
}

type discreetClient struct {
	client net.Conn
	mu     sync.Mutex
	server net.Conn
	all    []net.Conn
}

func newDiscreet(t *testing.T, first *pgtest.Server) *discreet {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &discreet{address: l.Addr().String()}
	d.working.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", port(first)))
			if err != nil {
				_ = client.Close()
				continue
			}
			c := &discreetClient{client: client}
			d.mu.Lock()
			d.clients = append(d.clients, c)
			d.mu.Unlock()
			c.lead(server, &d.working)
			d.working.Go(c.ask)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		d.mu.Lock()
		for _, c := range d.clients {
			c.close()
		}
		d.mu.Unlock()
		d.working.Wait()
	})
	return d
}

// lead has a server answer the client from now on.
func (c *discreetClient) lead(server net.Conn, working *sync.WaitGroup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.all = server, append(c.all, server)
	working.Go(func() { _, _ = io.Copy(c.client, server) })
}

// ask passes on what the client asks, to whoever is to answer.
func (c *discreetClient) ask() {
	defer c.close()
	piece := make([]byte, 32<<10)
	for {
		n, err := c.client.Read(piece)
		if err != nil {
			return
		}
		c.mu.Lock()
		_, err = c.server.Write(piece[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *discreetClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.client.Close()
	for _, server := range c.all {
		_ = server.Close()
	}
}

// swap leads every connection to another server. None may be in use.
func (d *discreet) swap(t *testing.T, to string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		conn, err := pgconn.Connect(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		hijacked, err := conn.Hijack()
		if err != nil {
			t.Fatal(err)
		}
		c.lead(hijacked.Conn, &d.working)
	}
}

// TestConnectionIsGivenAnotherServer is T25 behind a pooler that does not show itself: the process that answers is not the
// one that the connection was introduced to, so the value is not filled, and from then on each load says where it ran.
func TestConnectionIsGivenAnotherServer(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.rename(t, "first")
	p.standby.CatchUp(t)
	p.standby.Promote(t)
	pooler := newDiscreet(t, p.primary)
	through, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	through.Host = pooler.address
	through.RawQuery = "sslmode=disable&pool_max_conns=1&default_query_exec_mode=exec"
	l, err := pgload.Open(t.Context(), through.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	first := loadName(t, l)
	if string(first.Payload) != `{"name":"first"}` || first.Refuse != "" || first.Server.Timeline != 1 || first.Coverage.IsZero() {
		t.Fatalf("Load = %s %+v", first.Payload, first)
	}

	pooler.swap(t, p.standby.URL(p.name))
	p.standby.Exec(t, p.standby.URL(p.name), "UPDATE product SET name = 'promoted' WHERE id = 1")
	if got := loadName(t, l); string(got.Payload) != `{"name":"promoted"}` || !strings.Contains(got.Refuse, "another server") || !got.Coverage.IsZero() {
		t.Errorf("on another server: Load = %s %+v, want it not to be filled", got.Payload, got)
	}
	if got := loadName(t, l); string(got.Payload) != `{"name":"promoted"}` || got.Refuse != "" || got.Server.Timeline != 2 {
		t.Errorf("asked again: Load = %s %+v, want it of timeline 2", got.Payload, got)
	}
}
