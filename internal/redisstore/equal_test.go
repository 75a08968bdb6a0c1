package redisstore

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/storetest"
	"github.com/freshet/freshet/mvcc"
)

// theLane is the lane of a cluster in which scripts are held against fence.
const theLane = 5

// server opens stores on one server.
func server(url string) storetest.Open {
	return func(tb testing.TB, n int) *storetest.Opened {
		tb.Helper()
		return opened(tb, url, n)
	}
}

// laneOf opens stores of which one lane of a cluster is used.
func laneOf(url string) storetest.Open {
	return func(tb testing.TB, n int) *storetest.Opened {
		tb.Helper()
		o := opened(tb, url, n)
		s, ok := o.Store.(*Store)
		if !ok {
			tb.Fatalf("%T is no *Store", o.Store)
		}
		o.Lane, o.Prefix = theLane, s.laneKey(theLane, "")
		o.In = func(key string) bool { return fence.LaneOf(key) == theLane }
		var first *Conn
		o.Connect = func(ctx context.Context) (pipeline.Conn, error) {
			c, err := s.Connect(ctx)
			if err != nil {
				return nil, err
			}
			c.lanes = c.lanes[theLane : theLane+1]
			first = c
			return c, nil
		}
		o.LaneReplid = func() string { return first.lanes[0].replid }
		o.LaneOf = func(pipeline.Conn) string { return first.lanes[0].generation }
		client := s.node(tb)
		o.Stray = func() error {
			return client.Do(context.Background(), client.B().Hset().Key(s.headKey(theLane)).FieldValue().FieldValue("at", "elsewhere").Build()).Error()
		}
		return o
	}
}

func opened(tb testing.TB, url string, n int) *storetest.Opened {
	tb.Helper()
	s, err := Open(tb.Context(), Options{URL: url, Namespace: fmt.Sprintf("%s-%d", redistest.Namespace(tb), n), Patience: patience})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, client, headKey := context.Background(), s.node(tb), s.headKey(min(theLane, s.lanes-1))
	return &storetest.Opened{
		Store: s, Close: s.Close, Prefix: s.prefix(),
		Connect: func(ctx context.Context) (pipeline.Conn, error) { return s.Connect(ctx) },
		Put: func(name, text string) error {
			return client.Do(ctx, client.B().Set().Key(name).Value(text).Build()).Error()
		},
		Remove: func(name string) error { return client.Do(ctx, client.B().Unlink().Key(name).Build()).Error() },
		TTL: func(name string) (time.Duration, error) {
			n, err := client.Do(ctx, client.B().Pttl().Key(name).Build()).AsInt64()
			return time.Duration(n) * time.Millisecond, err
		},
		Head: func() (map[string]string, error) {
			return client.Do(ctx, client.B().Hgetall().Key(headKey).Build()).AsStrMap()
		},
		Evict: func() error { return client.Do(ctx, client.B().Del().Key(headKey).Build()).Error() },
		Believe: func(c pipeline.Conn, replid, lane string) {
			if c, ok := c.(*Conn); ok {
				c.lanes[0].replid, c.lanes[0].generation = replid, lane
			}
		},
		Disturb: func() error { return client.Do(ctx, client.B().ScriptFlush().Build()).Error() },
	}
}

// node is a client of the server that has what is tested.
func (s *Store) node(tb testing.TB) rueidis.Client {
	tb.Helper()
	to, err := s.toLane(min(theLane, s.lanes-1))
	if err != nil {
		tb.Fatal(err)
	}
	return to.client
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, server(redistest.Shared(t).URL))
}

// eachKind runs a test on one server, and on one lane of a cluster, whose errors are the Conn's.
func eachKind(t *testing.T, test func(t *testing.T, open storetest.Open)) {
	t.Helper()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		test(t, server(redistest.Shared(t).URL))
	})
	t.Run("lane", func(t *testing.T) {
		t.Parallel()
		test(t, laneOf(redistest.StartCluster(t, 3, false).URL))
	})
}

// The tests that follow give the same random commands to fence and to the scripts on a real server: answers and stored bytes
// must be the same.

func TestScriptsOnRecordsEqualFence(t *testing.T) {
	t.Parallel()
	eachKind(t, storetest.RecordsEqualFence)
}

func TestScriptsOnHeadEqualFence(t *testing.T) {
	t.Parallel()
	eachKind(t, storetest.HeadEqualsFence)
}

// confirmed confirms keys by script, and nothing else.
func confirmed(ctx context.Context, c *Conn, keys ...Stamped) (Result, error) {
	c.confirm(ctx, c.lanes, c.shares(c.lanes, &Batch{Keys: keys}), nil, c.store.scripts.confirm,
		func(k *Stamped) []string { return stampArgs(k, millis(leaseMargin)) })
	return c.sum(c.lanes), c.outcome(c.lanes)
}

// What the scripts decide first, before they look at all of a record: every way in which one transaction can lie to a
// coverage.
func TestScriptsEqualFenceOnPlainRecords(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	seen := mvcc.Snapshot{Xmin: 5, Xmax: 9, Xip: []mvcc.XID{5, 7}}
	for _, coverage := range []fence.Coverage{{Snapshot: seen}, {Replay: 7}, {}} {
		for _, state := range []fence.State{fence.None, fence.Live, fence.Negative} {
			for x := mvcc.XID(4); x <= 10; x++ {
				name := s.testName(fmt.Sprint("plain:", coverage, state, x))
				twin := fence.Record{State: state}
				if state != fence.None {
					twin.Coverage, twin.RowVersion, twin.Payload = coverage, "1", []byte(strings.Repeat("x", 1000))
				}
				err := s.client.Do(t.Context(), s.client.B().Set().Key(name).Value(string(twin.Append(nil))).Build()).Error()
				if state == fence.None {
					err = s.client.Do(t.Context(), s.client.B().Unlink().Key(name).Build()).Error()
				}
				if err != nil {
					t.Fatal(err)
				}
				stamp := fence.Stamp{XID: x, End: mvcc.LSN(x)}
				keys := []Stamped{{Name: name, Stamps: []fence.Stamp{stamp}}}
				for _, step := range []struct {
					name   string
					script func() (Result, error)
					fence  func() (fence.Record, fence.InvalidateOutcome)
				}{
					{
						"Early", func() (Result, error) { return c.Early(t.Context(), keys) },
						func() (fence.Record, fence.InvalidateOutcome) { return fence.Early(twin, stamp, true, 1) },
					},
					{
						"confirm", func() (Result, error) { return confirmed(t.Context(), c, keys...) },
						func() (fence.Record, fence.InvalidateOutcome) { return fence.Confirm(twin, stamp, 1) },
					},
					{
						"confirm again", func() (Result, error) { return confirmed(t.Context(), c, keys...) },
						func() (fence.Record, fence.InvalidateOutcome) { return fence.Confirm(twin, stamp, 1) },
					},
				} {
					got, err := step.script()
					if err != nil {
						t.Fatal(err)
					}
					var outcome fence.InvalidateOutcome
					twin, outcome = step.fence()
					var want Result
					want.Count(outcome)
					if got != want {
						t.Fatalf("%s = %+v, fence says %v", step.name, got, outcome)
					}
					stored, err := s.Read(t.Context(), name)
					if err != nil {
						t.Fatal(err)
					}
					if (stored == nil) != twin.Empty() || stored != nil && !bytes.Equal(stored, twin.Append(nil)) {
						t.Fatalf("%s of %d at %v %v left %q, fence has %q", step.name, x, state, coverage, stored, twin.Append(nil))
					}
				}
			}
		}
	}
}
