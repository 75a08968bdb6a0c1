package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	probeRows = 1000   // that are cached and written by the probe
	loadRows  = 20_000 // behind those, written by the background load
)

// latency measures how long a cached value outlives the COMMIT that made it stale, against a loop that does nothing
// but decode and unlink.
func latency(ctx context.Context, b *bench) error {
	s, err := newSubject(ctx, b, "latency", probeRows+loadRows)
	if err != nil {
		return err
	}
	defer s.close()
	// The first follower prepares publication and slot, and names the keys.
	c, err := s.follower(ctx, job{Slot: s.slot})
	if err != nil {
		return err
	}
	if err := c.says(ctx, live); err != nil {
		return err
	}
	if err := c.stop(); err != nil {
		return err
	}
	if err := b.servers.exec(ctx, s.url, `SELECT pg_create_logical_replication_slot('latency_loop', 'pgoutput')`); err != nil {
		return err
	}
	for _, kind := range []struct {
		name string
		load int
	}{{"idle", 0}, {"busy", b.sizes.load}} {
		if err := s.compare(ctx, kind.name, kind.load); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
	}
	return nil
}

func (s *subject) compare(ctx context.Context, name string, load int) error {
	var ours, theirs []time.Duration
	for block := range s.b.sizes.blocks {
		sides := []string{follow, loop}
		if block%2 != 0 {
			slices.Reverse(sides)
		}
		for _, side := range sides {
			samples, err := s.block(ctx, side, load, s.b.random(uint64(block)))
			if err != nil {
				return fmt.Errorf("%s: %w", side, err)
			}
			if side == follow {
				ours = append(ours, samples...)
			} else {
				theirs = append(theirs, samples...)
			}
			s.b.printf("  %-4s block %d: %-6s p50 %v, p99 %v\n", name, block+1, side,
				median(samples).Round(time.Microsecond), quantile(samples, 0.99).Round(time.Microsecond))
		}
	}
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		us, them := quantile(ours, q.share), quantile(theirs, q.share)
		s.b.report("latency/"+name+"/"+q.name+"/freshet", float64(us.Microseconds()), "us")
		s.b.report("latency/"+name+"/"+q.name+"/loop", float64(them.Microseconds()), "us")
		s.b.report("latency/"+name+"/"+q.name, float64(us)/float64(them), "times the loop's")
	}
	return nil
}

// block runs one follower and measures with it.
func (s *subject) block(ctx context.Context, side string, load int, random *rand.Rand) ([]time.Duration, error) {
	prefix := "loop:" + table + ":"
	j := job{Kind: side, Postgres: s.url, Redis: s.b.servers.redis.URL(), Namespace: s.namespace, Slot: s.slot}
	if side == loop {
		j.Slot, j.Prefix = "latency_loop", prefix
	} else {
		var err error
		if prefix, err = s.prefix(ctx); err != nil {
			return nil, err
		}
	}
	c, err := start(ctx, j)
	if err != nil {
		return nil, err
	}
	if err := c.says(ctx, live); err != nil {
		return nil, err
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	if load > 0 {
		const writers = 2
		for range writers {
			seed := random.Uint64()
			group.Go(func() error { return s.write(loading, float64(load)/writers, rand.New(rand.NewPCG(seed, 0))) }) //nolint:gosec // measures
		}
	}
	samples, err := s.probe(ctx, prefix, random)
	stop()
	return samples, errors.Join(err, group.Wait(), c.stop(), s.free(ctx, j.Slot))
}

// write commits single-row transactions at a rate, until ctx ends.
func (s *subject) write(ctx context.Context, perSecond float64, random *rand.Rand) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	began := time.Now()
	for n := 0; ; n++ {
		due := began.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))
		if wait := time.Until(due); wait > 0 && pause(ctx, wait) != nil {
			return nil
		}
		_, err := conn.Exec(ctx, `UPDATE `+table+` SET n = n + 1 WHERE id = $1`, probeRows+1+random.IntN(loadRows))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// probe writes cached rows, one at a time, and watches them go.
func (s *subject) probe(ctx context.Context, prefix string, random *rand.Rand) ([]time.Duration, error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	w, err := openWatcher(ctx, s.b.servers.redis.Addr(), prefix)
	if err != nil {
		return nil, err
	}
	defer w.close()
	value := record(200)
	const warmup = 30
	samples := make([]time.Duration, 0, s.b.sizes.samples)
	for n := range warmup + s.b.sizes.samples {
		// At no fixed distance, so that nothing that ticks stands in the same place every time.
		if err := pause(ctx, time.Duration(random.Int64N(int64(4*time.Millisecond)))); err != nil {
			return nil, err
		}
		id := 1 + random.IntN(probeRows)
		name := prefix + strconv.Itoa(id)
		deadline := time.Now().Add(20 * time.Second)
		if err := w.set(name, value, deadline); err != nil {
			return nil, err
		}
		if _, err := conn.Exec(ctx, `UPDATE `+table+` SET n = n + 1 WHERE id = $1`, id); err != nil {
			return nil, err
		}
		committed := time.Now()
		if err := w.heard(name, deadline, "set", "del"); err != nil {
			return nil, err
		}
		took := time.Since(committed)
		if live, err := w.live(name); err != nil || live {
			return nil, errors.Join(fmt.Errorf("%s still holds a value", name), err)
		}
		if n >= warmup {
			samples = append(samples, took)
		}
	}
	return samples, nil
}

// watcher hears from Redis itself when a key is deleted, on a connection of its own. To ask again and again would keep
// one processor busy and Redis another, and measure who gets the rest.
type watcher struct {
	commands, events *line
	prefix           string
}

// line is a connection, with nothing between it and the socket.
type line struct {
	conn   net.Conn
	reader *bufio.Reader
}

func dial(ctx context.Context, address string) (*line, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &line{conn: conn, reader: bufio.NewReader(conn)}, nil
}

func (l *line) send(words ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	_, err := l.conn.Write([]byte(b.String()))
	return err
}

// read reads n lines and returns the last one.
func (l *line) read(n int) (text string, err error) {
	for range n {
		if text, err = l.reader.ReadString('\n'); err != nil {
			return "", err
		}
	}
	return strings.TrimSuffix(text, "\r\n"), nil
}

func openWatcher(ctx context.Context, address, prefix string) (*watcher, error) {
	w := &watcher{prefix: prefix}
	var err error
	if w.commands, err = dial(ctx, address); err != nil {
		return nil, err
	}
	if w.events, err = dial(ctx, address); err != nil {
		w.close()
		return nil, err
	}
	// Keyspace events of the generic commands, of which UNLINK is one, and of those on strings: a value may be replaced by
	// a fence.
	if err := w.ask("+OK", "CONFIG", "SET", "notify-keyspace-events", "Kg$"); err != nil {
		w.close()
		return nil, err
	}
	if err := w.events.send("PSUBSCRIBE", channel+prefix+"*"); err != nil {
		w.close()
		return nil, err
	}
	if _, err := w.events.read(6); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

const channel = "__keyspace@0__:"

func (w *watcher) close() {
	for _, l := range []*line{w.commands, w.events} {
		if l != nil {
			_ = l.conn.Close()
		}
	}
}

func (w *watcher) ask(want string, words ...string) error {
	if err := w.commands.send(words...); err != nil {
		return err
	}
	reply, err := w.commands.read(1)
	if err == nil && reply != want {
		err = fmt.Errorf("%s: %q", words[0], reply)
	}
	return err
}

// set stores a value, and returns when its own event was heard.
func (w *watcher) set(name, value string, deadline time.Time) error {
	if err := w.ask("+OK", "SET", name, value); err != nil {
		return err
	}
	return w.heard(name, deadline, "set")
}

// live reports whether a record holds a value.
func (w *watcher) live(name string) (bool, error) {
	if err := w.commands.send("GETRANGE", name, "0", "3"); err != nil {
		return false, err
	}
	text, err := w.commands.read(2)
	return text == "f1 V", err
}

// heard waits for one of some events of a key.
func (w *watcher) heard(name string, deadline time.Time, events ...string) error {
	if err := w.events.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	for {
		// *4, then pmessage, the pattern, the channel and the event, each behind its length.
		key, err := w.events.read(7)
		if err != nil {
			return fmt.Errorf("wait for %v of %s: %w", events, name, err)
		}
		event, err := w.events.read(2)
		if err != nil {
			return err
		}
		if key == channel+name && slices.Contains(events, event) {
			return nil
		}
	}
}
