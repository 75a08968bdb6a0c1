package faultproxy_test

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	short    = 150 * time.Millisecond // for what does not come
	patience = 20 * time.Second       // for what comes, on a machine that may stand still
)

type client struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Reader
}

func dial(t *testing.T, p *faultproxy.Proxy) *client {
	t.Helper()
	conn, err := net.Dial("tcp4", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive(within time.Duration) (string, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		c.t.Fatal(err)
	}
	return c.lines.ReadString('\n')
}

func (c *client) wants(want string) {
	c.t.Helper()
	if got, err := c.receive(patience); err != nil || got != want+"\r\n" {
		c.t.Errorf("received %q, %v, want %s", got, err, want)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // as the connection gives it
	return ok && timeout.Timeout()
}

func TestFaults(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := faultproxy.Start(t, server.Addr)
	c := dial(t, p)
	c.send("PING")
	c.wants("+PONG")

	for _, d := range []faultproxy.Direction{faultproxy.ToServer, faultproxy.ToClient, faultproxy.Both} {
		p.Hold(d)
		c.send("INCR n")
		if got, err := c.receive(short); !isTimeout(err) {
			t.Errorf("held in direction %d: received %q, %v", d, got, err)
		}
		other := dial(t, p) // taken, and not answered either
		other.send("PING")
		if got, err := other.receive(short); !isTimeout(err) {
			t.Errorf("held in direction %d: a new connection received %q, %v", d, got, err)
		}
		n, err := server.Ask(t, "EXISTS", "n").AsInt64()
		if arrived := n == 1; err != nil || arrived != (d == faultproxy.ToClient) {
			t.Errorf("held in direction %d: the command arrived: %t, %v", d, arrived, err)
		}
		p.Heal()
		c.wants(":1")
		other.wants("+PONG")
		server.FlushAll(t)
	}

	p.Delay(short)
	began := time.Now()
	c.send("PING")
	c.wants("+PONG")
	if took := time.Since(began); took < 2*short {
		t.Errorf("there and back took %v, want %v at least", took, 2*short)
	}
	p.Heal()

	elsewhere := redistest.Start(t)
	elsewhere.Do(t, "SET", "k", "elsewhere")
	p.Lead(elsewhere.Addr)
	c.send("EXISTS k")
	c.wants(":0")
	other := dial(t, p)
	other.send("EXISTS k")
	other.wants(":1")

	p.Cut()
	for _, c := range []*client{c, other, dial(t, p)} {
		if got, err := c.receive(patience); err == nil || isTimeout(err) {
			t.Errorf("cut: received %q, %v", got, err)
		}
	}
	p.Heal()
	again := dial(t, p)
	again.send("PING")
	again.wants("+PONG")
}

func TestHoldSome(t *testing.T) {
	t.Parallel()
	p := faultproxy.Start(t, redistest.Start(t).Addr)
	first, second := dial(t, p), dial(t, p)
	for _, c := range []*client{first, second} {
		c.send("PING")
		c.wants("+PONG")
	}
	p.HoldOne(1, faultproxy.ToClient)
	for _, c := range []*client{first, second} {
		c.send("PING")
	}
	second.wants("+PONG")
	if got, err := first.receive(short); !isTimeout(err) {
		t.Errorf("the first connection received %q, %v", got, err)
	}
	p.Heal()
	first.wants("+PONG")

	if n := p.Passed(); n != 4 {
		t.Errorf("%d chunks have gone to clients, want 4", n)
	}
	p.HoldAfter(6)
	for _, c := range []*client{first, second} {
		c.send("PING")
		c.wants("+PONG")
	}
	for _, c := range []*client{first, second} {
		c.send("PING")
	}
	if got, err := first.receive(short); !isTimeout(err) {
		t.Errorf("after the sixth chunk: received %q, %v", got, err)
	}
	second.send("PING") // the proxy ends with both directions held
}
