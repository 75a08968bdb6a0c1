package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// oneOf is one HEAD of several on a server: in a cluster each has a hash tag, and the keys of its slot with it.
type oneOf struct {
	head string
	at   fence.Head
}

// advance is a batch over all lanes as a daemon would do it: every INTENT and the keys' UNLINK in one pipeline, then,
// when all of that was answered, every ADVANCE in another one.
func advance(ctx context.Context, c *Conn, lanes []oneOf, names []string) error {
	next := lanes[0].at.Wc + 1
	l := c.lanes[0].link
	phase := func(s script, args func(fence.Head) []string, more ...rueidis.Completed) error {
		commands := make([]rueidis.Completed, 0, len(lanes)+len(more))
		for i := range lanes {
			commands = append(commands, l.eval(s, []string{lanes[i].head}, append(c.expected(c.lanes[0], expect(lanes[i].at)), args(lanes[i].at)...)...))
		}
		replies, err := l.do(ctx, append(commands, more...))
		if err != nil {
			return err
		}
		for i := range lanes {
			reply, err := parseHeadReply(replies[i])
			if err != nil {
				return err
			}
			if err := reply.err(); err != nil {
				return err
			}
		}
		l.known[s.digest] = true
		return nil
	}
	err := phase(c.store.scripts.intent, func(fence.Head) []string {
		return []string{fence.LSNText(next), fence.SnapshotText(sees(mvcc.XID(next)))}
	}, l.client.B().Unlink().Key(names...).Build())
	if err != nil {
		return err
	}
	err = phase(c.store.scripts.advance, func(fence.Head) []string { return []string{fence.LSNText(next), "-"} })
	if err != nil {
		return err
	}
	for i := range lanes {
		lanes[i].at.Wc = next
	}
	return nil
}

// BenchmarkLanes measures what HEADs cost by their number: it decides how many lanes a cluster could have, since every
// batch writes all of them, whichever keys it is about.
func BenchmarkLanes(b *testing.B) {
	names := make([]string, 10)
	for i := range names {
		names[i] = "f:bench:" + generation + ":e.v.a:" + strconv.Itoa(i)
	}
	for _, n := range []int{1, 4, 16, 64} {
		b.Run("lanes="+strconv.Itoa(n), func(b *testing.B) {
			server := redistest.Start(b)
			s := open(b, server)
			c := connect(b, s)
			head := begin(b, c, fence.NewTerm(1, 10))
			lanes := make([]oneOf, n)
			for i := range lanes {
				lanes[i] = oneOf{head: fmt.Sprintf("f:lanes:head:{%d}", i), at: head}
				if err := s.client.Do(b.Context(), s.client.B().Copy().Source(s.headKey(0)).Destination(lanes[i].head).Build()).Error(); err != nil {
					b.Fatal(err)
				}
			}
			before := cpu(b, server)
			for b.Loop() {
				if err := advance(b.Context(), c, lanes, names); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu(b, server)-before)/float64(b.N)*1e6, "server-us/op")
		})
	}
}

// cpu is how many seconds the server has worked.
func cpu(tb testing.TB, server *redistest.Server) (seconds float64) {
	tb.Helper()
	text, err := server.Ask(tb, "INFO", "cpu").ToString()
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				tb.Fatal(err)
			}
			seconds += n
		}
	}
	return seconds
}

// TestLanes has the benchmark's batch do what it says, on every lane.
func TestLanes(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	lanes := make([]oneOf, 4)
	for i := range lanes {
		lanes[i] = oneOf{head: fmt.Sprintf("%shead:{%d}", s.prefix(), i), at: head}
		if err := s.client.Do(t.Context(), s.client.B().Copy().Source(s.headKey(0)).Destination(lanes[i].head).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := advance(t.Context(), c, lanes, []string{"f:none"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range lanes {
		wc, err := s.client.Do(t.Context(), s.client.B().Hget().Key(l.head).Field("wc").Build()).ToString()
		if err != nil || wc != fence.LSNText(head.Wc+3) {
			t.Errorf("%s has wc %s, %v", l.head, wc, err)
		}
	}
}
