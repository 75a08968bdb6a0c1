// Package faultproxy stands between a client and a server on loopback, and does to their connections what networks do:
// it cuts them, lets them hang half open, delays what they carry, in one direction or both, and leads new ones elsewhere.
package faultproxy

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction says which way bytes go.
type Direction int

// The directions. Both are one Direction too.
const (
	ToServer Direction = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// Proxy forwards TCP connections. Its methods may be called from any goroutine.
type Proxy struct {
	Addr string // host:port, on loopback

	listener net.Listener
	working  sync.WaitGroup

	mu      sync.Mutex
	target  string
	turns   []string // where the next connections go
	held    Direction
	only    int // 0: what is held is held of every connection; otherwise of this one, in the order of their coming
	came    int // connections
	passed  int // chunks that went to clients
	holdAt  int // when so many have, connections are held; 0: never
	delay   time.Duration
	cut     bool
	closed  bool
	changed chan struct{} // closed, and replaced, with every change
	conns   map[net.Conn]struct{}
}

// Start starts a proxy before the server; it ends with the test.
func Start(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{
		Addr: listener.Addr().String(), listener: listener, target: target,
		changed: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	p.working.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

func (p *Proxy) close() {
	p.Heal() // what is held would be held for ever
	p.change(func() { p.closed = true })
	_ = p.listener.Close()
	p.Reset()
	p.working.Wait()
}

// change changes the state and wakes whoever waits for that.
func (p *Proxy) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset ends every connection, as a cable that is plugged elsewhere does; new ones are taken.
func (p *Proxy) Reset() {
	p.mu.Lock()
	all := make([]net.Conn, 0, len(p.conns))
	for conn := range p.conns {
		all = append(all, conn)
	}
	p.mu.Unlock()
	for _, conn := range all {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // the other side sees a reset, not an end
		}
		_ = conn.Close()
	}
}

// Cut ends every connection and takes no new ones, until Heal.
func (p *Proxy) Cut() {
	p.change(func() { p.cut = true })
	p.Reset()
}

// Hold keeps every connection and takes new ones, and forwards nothing in the direction, until Heal: nobody is told.
func (p *Proxy) Hold(d Direction) { p.change(func() { p.held = d }) }

// HoldOne is Hold for one connection alone: the first that came has the number 1.
func (p *Proxy) HoldOne(number int, d Direction) { p.change(func() { p.held, p.only = d, number }) }

// HoldAfter is Hold in both directions from the moment on that so many chunks have gone to clients, all connections together.
func (p *Proxy) HoldAfter(chunks int) {
	if chunks == 0 {
		p.Hold(Both)
		return
	}
	p.change(func() { p.holdAt = chunks })
}

// Passed is how many chunks have gone to clients: what a server sends at once, which mostly is one answer.
func (p *Proxy) Passed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// pass counts a chunk that is about to go to a client.
func (p *Proxy) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holdAt > 0 && p.passed >= p.holdAt {
		p.held, p.holdAt = Both, 0
	}
	p.passed++
}

// Delay has everything arrive later by so much, in both directions, until Heal.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

// Lead has new connections go to another server; those that there are stay.
func (p *Proxy) Lead(target string) { p.change(func() { p.target = target }) }

// LeadEach has new connections go to these servers in turn, as an address that changes from one moment to the next does; once
// each has had its own, all go where Lead says.
func (p *Proxy) LeadEach(targets ...string) { p.change(func() { p.turns = targets }) }

// Heal ends every fault: what was held arrives now.
func (p *Proxy) Heal() {
	p.change(func() { p.held, p.only, p.holdAt, p.delay, p.cut = 0, 0, 0, 0, false })
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		target, refuse := p.target, p.cut || p.closed
		if len(p.turns) > 0 && !refuse {
			target, p.turns = p.turns[0], p.turns[1:]
		}
		p.mu.Unlock()
		if refuse {
			_ = client.Close()
			continue
		}
		p.working.Go(func() { p.serve(client, target) })
	}
}

// keep notes a connection that Reset has to end, unless it is too late.
func (p *Proxy) keep(conns ...net.Conn) (number int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	p.came++
	return p.came, !p.cut && !p.closed
}

func (p *Proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
		_ = conn.Close()
	}
}

func (p *Proxy) serve(client net.Conn, target string) {
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp4", target)
	if err != nil {
		_ = client.Close()
		return
	}
	defer p.forget(client, server)
	number, ok := p.keep(client, server)
	if !ok {
		return
	}
	ended := make(chan struct{})
	end := sync.OnceFunc(func() {
		close(ended)
		p.forget(client, server)
	})
	var pumps sync.WaitGroup
	pumps.Go(func() { defer end(); p.pump(client, server, ToServer, number, ended) })
	pumps.Go(func() { defer end(); p.pump(server, client, ToClient, number, ended) })
	pumps.Wait()
}

// chunk is what was read at once.
type chunk struct {
	data []byte
	at   time.Time
}

// pump carries one direction of a connection until it ends.
func (p *Proxy) pump(from, to net.Conn, d Direction, number int, ended chan struct{}) {
	const depth, size = 256, 32 << 10
	chunks := make(chan chunk, depth)
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		defer close(chunks)
		for {
			data := make([]byte, size)
			n, err := from.Read(data)
			if n > 0 {
				select {
				case chunks <- chunk{data[:n], time.Now()}:
				case <-ended:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	defer func() { _ = from.Close() }() // the reader ends
	for {
		select {
		case c, ok := <-chunks:
			if ok && d == ToClient {
				p.pass()
			}
			if !ok || !p.due(c.at, d, number, ended) {
				return
			}
			if _, err := to.Write(c.data); err != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

// due waits until what was read then may be forwarded, and says whether the connection is still there.
func (p *Proxy) due(at time.Time, d Direction, number int, ended chan struct{}) bool {
	for {
		p.mu.Lock()
		held, left, changed := p.held&d != 0 && (p.only == 0 || p.only == number), time.Until(at.Add(p.delay)), p.changed
		p.mu.Unlock()
		if !held && left <= 0 {
			return true
		}
		if held {
			left = time.Hour
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed:
		case <-ended:
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}
