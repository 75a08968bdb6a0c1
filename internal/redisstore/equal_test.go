package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// The tests in this file give the same random commands to fence and to the scripts on a real server: answers and
// stored bytes must be the same. The one thing that fence cannot know, the server's clock, is taken from the answer.

func snapshots() *rapid.Generator[mvcc.Snapshot] {
	return rapid.Custom(func(t *rapid.T) mvcc.Snapshot {
		// Now and then far up, where a double would round.
		base := rapid.SampledFrom([]mvcc.XID{1, 1 << 62}).Draw(t, "base")
		s := mvcc.Snapshot{Xmax: base + mvcc.XID(rapid.Uint64Range(1, 8).Draw(t, "xmax"))}
		s.Xmin = s.Xmax
		for x := base; x < s.Xmax; x++ {
			if rapid.Bool().Draw(t, "running") {
				s.Xip = append(s.Xip, x)
			}
		}
		if len(s.Xip) > 0 {
			s.Xmin = s.Xip[0]
		}
		return s
	})
}

func coverages() *rapid.Generator[fence.Coverage] {
	return rapid.OneOf(
		rapid.Map(snapshots(), func(s mvcc.Snapshot) fence.Coverage { return fence.Coverage{Snapshot: s} }),
		rapid.Map(rapid.Uint64Range(1, 9), func(n uint64) fence.Coverage { return fence.Coverage{Replay: mvcc.LSN(n)} }),
	)
}

func ticks() *rapid.Generator[fence.Tick] {
	return rapid.Custom(func(t *rapid.T) fence.Tick {
		if rapid.Bool().Draw(t, "none") {
			return fence.Tick{}
		}
		return fence.Tick{ID: "00000000000000cc", N: rapid.Uint64().Draw(t, "n")}
	})
}

func someToken() *rapid.Generator[fence.Token] {
	return rapid.Map(rapid.SampledFrom([]byte("abc")), token)
}

// stored is a record as no script of today leaves it, but one of a later freshet might: with fences, or stale.
func stored() *rapid.Generator[fence.Record] {
	return rapid.Custom(func(t *rapid.T) fence.Record {
		r := fence.Record{State: fence.State(rapid.IntRange(0, 4).Draw(t, "state"))}
		plain := rapid.Bool().Draw(t, "plain")
		if !plain && rapid.Bool().Draw(t, "leased") {
			r.Lease = fence.Lease{Token: someToken().Draw(t, "token"), End: rapid.SampledFrom([]int64{1, 1 << 62}).Draw(t, "end")}
		}
		fences := 0
		if !plain {
			fences = rapid.IntRange(0, 3).Draw(t, "fences")
		}
		for range fences {
			r.Fences = append(r.Fences, fence.Stamp{
				XID: mvcc.XID(rapid.Uint64Range(1, 9).Draw(t, "x")), End: mvcc.LSN(rapid.Uint64Range(1, 9).Draw(t, "e")),
			})
		}
		if r.State != fence.None {
			if rapid.IntRange(0, 9).Draw(t, "covered") > 0 {
				r.Coverage = coverages().Draw(t, "coverage")
			}
			r.RowVersion = rapid.SampledFrom([]string{"", "-", "a b", "ü\n%"}).Draw(t, "version")
			r.Filled = 5
			r.Epochs = someEpochs().Draw(t, "epochs")
			r.Payload = []byte(rapid.SampledFrom([]string{"", "{}", "a\nb\x00c", "f1 V"}).Draw(t, "payload"))
		}
		return r
	})
}

// someEpochs are none, or some of the few that there are.
func someEpochs() *rapid.Generator[[]fence.Epoch] {
	return rapid.SampledFrom([][]fence.Epoch{
		nil, nil,
		{{Name: "~0", ID: string(token('d'))}},
		{{Name: "~0", ID: string(token('e'))}},
		{{Name: "~0", ID: string(token('d'))}, {Name: "~1:7:%-", ID: string(token('e'))}, {Name: "~1+", ID: string(token('e'))}},
	})
}

// theLane is the lane of a cluster in which scripts are held against fence.
const theLane = 5

// eachKind runs a test on one server, and on one lane of a cluster, whose errors are the Conn's.
func eachKind(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		test(t, redistest.Shared(t).URL)
	})
	t.Run("lane", func(t *testing.T) {
		t.Parallel()
		test(t, redistest.StartCluster(t, 3, false).URL)
	})
}

// connectLane connects to a store, or to the one lane of a cluster.
func connectLane(ctx context.Context, s *Store) (*Conn, error) {
	c, err := s.Connect(ctx)
	if err == nil && s.lanes > 1 {
		c.lanes = c.lanes[theLane : theLane+1]
	}
	return c, err
}

// node is a client of the server that has what is tested.
func (s *Store) node(t interface{ Fatal(args ...any) }) rueidis.Client {
	to, err := s.toLane(min(theLane, s.lanes-1))
	if err != nil {
		t.Fatal(err)
	}
	return to.client
}

// testKey is the name of a record, in the lane of a cluster that is tested.
func (s *Store) testKey(n int) string {
	for key := strconv.Itoa(n); ; key += "+" {
		if s.lanes == 1 {
			return s.testName(key)
		}
		if fence.LaneOf(key) == theLane {
			return s.laneKey(theLane, generation+":e.v.a:"+key)
		}
	}
}

// confirmed confirms keys by script, and nothing else.
func confirmed(ctx context.Context, c *Conn, keys ...Stamped) (Result, error) {
	c.confirm(ctx, c.lanes, c.shares(c.lanes, &Batch{Keys: keys}), nil, c.store.scripts.confirm,
		func(k *Stamped) []string { return k.args(millis(leaseMargin)) })
	return c.sum(c.lanes), c.outcome(c.lanes)
}

func TestScriptsOnRecordsEqualFence(t *testing.T) {
	t.Parallel()
	eachKind(t, scriptsOnRecordsEqualFence)
}

func scriptsOnRecordsEqualFence(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	s, err := Open(ctx, Options{URL: url, Namespace: redistest.Namespace(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c, err := connectLane(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	client := s.node(t)
	run, outcomes := 0, map[fence.FillOutcome]int{}
	rapid.Check(t, func(t *rapid.T) {
		run++
		name := s.testKey(run)
		var twin fence.Record
		put := func(t *rapid.T, r fence.Record) {
			t.Helper()
			if err := client.Do(ctx, s.client.B().Set().Key(name).Value(string(r.Append(nil))).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"lease": func(t *rapid.T) {
				tok := someToken().Draw(t, "token")
				dead := ""
				if rapid.Bool().Draw(t, "over what is dead") {
					if dead = fence.EpochsText(someEpochs().Draw(t, "dead")); rapid.Bool().Draw(t, "which is there") {
						dead = fence.EpochsText(twin.Epochs)
					}
				}
				reply, err := s.LeaseOver(ctx, name, dead, tok, time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				var outcome fence.LeaseOutcome
				twin, outcome = fence.AcquireOver(twin, dead, tok, reply.Now, reply.Now+time.Hour.Microseconds())
				if reply.Granted != (outcome == fence.Granted) || reply.Holder != twin.Lease.Token {
					t.Fatalf("Lease = %+v, fence says %v", reply, outcome)
				}
				if got, want := reply.Record.Append(nil), twin.Append(nil); !bytes.Equal(got, want) {
					t.Fatalf("Lease answered %q, fence %q", got, want)
				}
			},
			"fill": func(t *rapid.T) {
				f := FillRequest{
					Token: someToken().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"),
					State:      rapid.SampledFrom([]fence.State{fence.Live, fence.Negative}).Draw(t, "state"),
					RowVersion: rapid.SampledFrom([]string{"", "-", "7"}).Draw(t, "version"),
					Epochs:     someEpochs().Draw(t, "epochs"),
					Payload:    []byte(rapid.SampledFrom([]string{"", "x\n\x00"}).Draw(t, "payload")), TTL: time.Hour,
				}
				got, now, err := s.fill(ctx, name, f)
				if err != nil {
					t.Fatal(err)
				}
				var want fence.FillOutcome
				twin, want = fence.Fill(twin, fence.Filling{
					Token: f.Token, Coverage: f.Coverage, State: f.State, RowVersion: f.RowVersion, Epochs: f.Epochs, Payload: f.Payload,
				}, now)
				if got != want {
					t.Fatalf("Fill = %v, fence says %v", got, want)
				}
			},
			"renew": func(t *rapid.T) {
				if rapid.IntRange(0, 7).Draw(t, "over another") > 0 {
					twin = stored().Draw(t, "record")
					if twin.Lease.IsZero() {
						twin.Lease = fence.Lease{Token: token('a'), End: 1 << 62}
					}
					put(t, twin)
				}
				q := RenewRequest{
					Token: someToken().Draw(t, "token"), Coverage: coverages().Draw(t, "coverage"),
					RowVersion: rapid.SampledFrom([]string{"", "-", "7 8"}).Draw(t, "version"), TTL: time.Hour, Epochs: someEpochs().Draw(t, "epochs"),
				}
				// Mostly with what may be accepted, since what is refused is soon seen.
				if rapid.IntRange(0, 7).Draw(t, "held") > 0 && !twin.Lease.IsZero() {
					q.Token = twin.Lease.Token
				}
				if rapid.Bool().Draw(t, "late") {
					last := 1<<62 + mvcc.XID(rapid.Uint64Range(5, 40).Draw(t, "last"))
					q.Coverage = fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: last, Xmax: last}}
				}
				got, now, err := s.renew(ctx, name, q)
				if err != nil {
					t.Fatal(err)
				}
				var want fence.FillOutcome
				twin, want = fence.Renew(twin, fence.Renewing{Token: q.Token, Coverage: q.Coverage, RowVersion: q.RowVersion, Epochs: q.Epochs}, now)
				if got != want {
					t.Fatalf("Renew = %v, fence says %v", got, want)
				}
				outcomes[got]++
			},
			"release": func(t *rapid.T) {
				tok := someToken().Draw(t, "token")
				got, err := s.release(ctx, name, tok)
				if err != nil {
					t.Fatal(err)
				}
				var want bool
				if twin, want = fence.Release(twin, tok); got != want {
					t.Fatalf("Release = %v, fence says %v", got, want)
				}
			},
			"early": func(t *rapid.T) {
				stamps := stamps().Draw(t, "stamps")
				got, err := c.Early(ctx, []Stamped{{Name: name, Stamps: stamps}})
				if err != nil {
					t.Fatal(err)
				}
				var want []fence.InvalidateOutcome
				for _, x := range stamps {
					var o fence.InvalidateOutcome
					twin, o = fence.Early(twin, x, true)
					want = append(want, o)
				}
				same(t, "Early", got, want)
			},
			"confirm": func(t *rapid.T) {
				stamps := stamps().Draw(t, "stamps")
				got, err := confirmed(ctx, c, Stamped{Name: name, Stamps: stamps})
				if err != nil {
					t.Fatal(err)
				}
				var want []fence.InvalidateOutcome
				for _, x := range stamps {
					var o fence.InvalidateOutcome
					twin, o = fence.Confirm(twin, x)
					want = append(want, o)
				}
				same(t, "confirm", got, want)
			},
			"flush scripts": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					if err := client.Do(ctx, s.client.B().ScriptFlush().Build()).Error(); err != nil {
						t.Fatal(err)
					}
				}
			},
			"put what is no record": func(t *rapid.T) {
				if err := client.Do(ctx, s.client.B().Set().Key(name).Value("f2 of a later layout").Build()).Error(); err != nil {
					t.Fatal(err)
				}
				// What nobody here can read may be a value, and goes with the first confirm.
				if _, err := confirmed(ctx, c, Stamped{Name: name, Stamps: stamps().Draw(t, "stamps")}); err != nil {
					t.Fatal(err)
				}
				twin = fence.Record{}
			},
			"unlink": func(t *rapid.T) {
				if err := client.Do(ctx, s.client.B().Unlink().Key(name).Build()).Error(); err != nil {
					t.Fatal(err)
				}
				twin = fence.Unlink(twin)
			},
			"put": func(t *rapid.T) {
				twin = stored().Draw(t, "record")
				put(t, twin)
			},
			"": func(t *rapid.T) {
				text, err := client.Do(ctx, s.client.B().Get().Key(name).Build()).ToString()
				absent := rueidis.IsRedisNil(err)
				if err != nil && !absent {
					t.Fatal(err)
				}
				if want := string(twin.Append(nil)); absent && !twin.Empty() || !absent && text != want {
					t.Fatalf("stored (absent %v)\n%q, fence has\n%q", absent, text, want)
				}
			},
		})
	})
	for outcome := fence.NoLease; outcome <= fence.NoValue; outcome++ {
		if outcomes[outcome] == 0 {
			t.Errorf("no RENEW was answered with %v: the commands are not random enough", outcome)
		}
	}
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
						func() (fence.Record, fence.InvalidateOutcome) { return fence.Early(twin, stamp, true) },
					},
					{
						"confirm", func() (Result, error) { return confirmed(t.Context(), c, keys...) },
						func() (fence.Record, fence.InvalidateOutcome) { return fence.Confirm(twin, stamp) },
					},
					{
						"confirm again", func() (Result, error) { return confirmed(t.Context(), c, keys...) },
						func() (fence.Record, fence.InvalidateOutcome) { return fence.Confirm(twin, stamp) },
					},
				} {
					got, err := step.script()
					if err != nil {
						t.Fatal(err)
					}
					var outcome fence.InvalidateOutcome
					twin, outcome = step.fence()
					same(t, step.name, got, []fence.InvalidateOutcome{outcome})
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

// stamps are what one key is fenced or confirmed with at a time: often a single one, about which coverages say something.
func stamps() *rapid.Generator[[]fence.Stamp] {
	of := func(last uint64, least, most int) *rapid.Generator[[]fence.Stamp] {
		return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) fence.Stamp {
			return fence.Stamp{
				XID: mvcc.XID(rapid.Uint64Range(1, last).Draw(t, "x")), End: mvcc.LSN(rapid.Uint64Range(1, 9).Draw(t, "e")),
			}
		}), least, most, func(x fence.Stamp) mvcc.XID { return x.XID })
	}
	return rapid.OneOf(of(9, 1, 1), of(40, 1, 9))
}

// same holds the counts that a script's answer gave against fence's outcomes, of which the last one is answered, or that
// a value was removed.
func same(t rapid.TB, what string, got Result, outcomes []fence.InvalidateOutcome) {
	t.Helper()
	var want Result
	switch {
	case slices.Contains(outcomes, fence.Removed):
		want.Removed = 1
	case outcomes[len(outcomes)-1] == fence.Kept:
		want.Kept = 1
	}
	if got != want {
		t.Fatalf("%s = %+v, fence says %v", what, got, outcomes)
	}
}

func TestScriptsOnHeadEqualFence(t *testing.T) {
	t.Parallel()
	eachKind(t, scriptsOnHeadEqualFence)
}

//nolint:funlen // one action after the other
func scriptsOnHeadEqualFence(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	namespace := redistest.Namespace(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		s, err := Open(ctx, Options{URL: url, Namespace: fmt.Sprintf("%s-%d", namespace, run)})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		client := s.node(rt)
		c, err := connectLane(ctx, s)
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		if _, _, err := c.Claim(ctx, "0"); err != nil {
			rt.Fatal(err)
		}
		replid, headKey := c.lanes[0].replid, s.headKey(c.lanes[0].number)
		twin := fence.Shard{Replid: replid}
		terms := rapid.SampledFrom([]fence.Term{fence.NewTerm(1, 9), fence.NewTerm(1, 1<<60), fence.NewTerm(2, 3)})
		generations := rapid.SampledFrom([]string{generation, "00000000000000bb"})
		positions := rapid.Map(rapid.Uint64Range(1, 12), func(n uint64) mvcc.LSN { return mvcc.LSN(n << 58) })
		expected := func(t *rapid.T) (Expected, fence.Expected) {
			// Mostly right, since what is refused is soon seen.
			e := Expected{Generation: twin.Head.Generation, Term: twin.Head.Term, Wc: twin.Head.Wc}
			c.lanes[0].replid, c.lanes[0].generation = replid, twin.Head.Lane
			switch rapid.IntRange(0, 11).Draw(t, "wrong") {
			case 0:
				e.Generation = generations.Draw(t, "generation")
			case 1:
				e.Term = terms.Draw(t, "term")
			case 2:
				e.Wc = positions.Draw(t, "wc")
			case 3:
				c.lanes[0].replid = "another history"
			case 4:
				c.lanes[0].generation = "another"
			}
			f := fence.Expected{Generation: e.Generation, Term: e.Term, Wc: e.Wc, Replid: c.lanes[0].replid}
			f.Lane = c.lanes[0].generation
			return e, f
		}
		rt.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				term := terms.Draw(t, "term")
				head, found, err := c.Claim(ctx, term)
				var outcome fence.HeadOutcome
				twin, outcome = fence.Claim(twin, term)
				if outcome == fence.Superseded != errors.Is(err, ErrSuperseded) || found != twin.Found || err != nil && outcome != fence.Superseded {
					t.Fatalf("Claim = %+v, %v, %v; fence says %v", head, found, err, outcome)
				}
			},
			"begin": func(t *rapid.T) {
				h := fence.Head{
					Generation: generations.Draw(t, "generation"), Term: terms.Draw(t, "term"), Revision: 1, System: "7", Timeline: 1,
					Publication: "p", Wi: positions.Draw(t, "wi"), Si: snapshots().Draw(t, "si"),
				}
				h.Wc = h.Wi
				err := c.NewGeneration(ctx, h)
				var outcome fence.HeadOutcome
				h.Lane = c.lanes[0].generation
				twin, outcome = fence.Begin(twin, h)
				check(t, "NewGeneration", err, outcome, twin)
			},
			"apply": func(t *rapid.T) {
				e, f := expected(t)
				b := Batch{
					Expect: e, Wi: positions.Draw(t, "wi"), Si: snapshots().Draw(t, "si"), All: rapid.IntRange(0, 3).Draw(t, "all") == 0,
				}
				for range rapid.IntRange(0, 3).Draw(t, "keys") {
					b.Names = append(b.Names, s.testKey(rapid.IntRange(0, 4).Draw(t, "key")))
				}
				for range rapid.IntRange(0, 3).Draw(t, "epochs") {
					b.Epochs = append(b.Epochs, s.testKey(rapid.IntRange(0, 4).Draw(t, "epoch")))
				}
				if rapid.IntRange(0, 9).Draw(t, "many epochs") == 0 {
					for i := range raisedAtMost + 50 {
						b.Epochs = append(b.Epochs, s.testKey(i))
					}
				}
				if rapid.Bool().Draw(t, "advance") {
					b.Advance = positions.Draw(t, "advance")
					if rapid.Bool().Draw(t, "with sa") {
						b.Sa = snapshots().Draw(t, "sa")
						b.Ticks[c.lanes[0].number] = ticks().Draw(t, "tick")
					}
				}
				_, err := c.Apply(ctx, b)
				var outcome fence.HeadOutcome
				twin, outcome = fence.Intent(twin, f, fence.Raise(b.raise(&share{names: b.Names, epochs: b.Epochs})), b.Si)
				if b.Advance != 0 && outcome == fence.Applied {
					twin, outcome = fence.Advance(twin, f, b.Advance, b.Sa, b.Ticks[c.lanes[0].number])
				}
				check(t, "Apply", err, outcome, twin)
			},
			"move": func(t *rapid.T) {
				e, f := expected(t)
				revision := rapid.Uint64Range(1, 4).Draw(t, "revision")
				err := c.Move(ctx, e, []byte("no roster, so that only HEAD decides"), revision, "q")
				var outcome fence.HeadOutcome
				twin, outcome = fence.Move(twin, f, revision, "q")
				check(t, "Move", err, outcome, twin)
			},
			"evict": func(t *rapid.T) {
				if err := client.Do(ctx, s.client.B().Del().Key(headKey).Build()).Error(); err != nil {
					t.Fatal(err)
				}
				twin.Head, twin.Found = fence.Head{}, false
			},
			"move the lane": func(t *rapid.T) {
				if twin.Head.At == "" || rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
					return
				}
				if err := client.Do(ctx, client.B().Hset().Key(headKey).FieldValue().FieldValue("at", "elsewhere").Build()).Error(); err != nil {
					t.Fatal(err)
				}
				twin.Head.At = "elsewhere"
			},
			"lease": func(t *rapid.T) { // what a reader judges its load by
				name := s.testKey(rapid.IntRange(0, 9).Draw(t, "key"))
				reply, err := s.Lease(ctx, name, token('a'), time.Second)
				if err != nil {
					t.Fatal(err)
				}
				want := twin.Head.For(fence.BucketOf(name))
				if twin.Head.At != "" && twin.Head.At != replid { // it vouches for nothing
					want, twin.Found = fence.Head{}, false
					defer func() { twin.Found = true }()
				}
				if reply.HeadFound != twin.Found || reply.Head.Wi != want.Wi || !reply.Head.Si.Dominates(want.Si) || !want.Si.Dominates(reply.Head.Si) {
					t.Fatalf("Lease answers HEAD %+v, fence has %+v", reply.Head, want)
				}
			},
			"": func(t *rapid.T) {
				got, err := client.Do(ctx, s.client.B().Hgetall().Key(headKey).Build()).AsStrMap()
				if err != nil {
					t.Fatal(err)
				}
				want := map[string]string{}
				if twin.Found {
					fields := twin.Head.Fields()
					for i := 0; i < len(fields); i += 2 {
						want[fields[i]] = fields[i+1]
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("HEAD (-fence +redis):\n%s", diff)
				}
			},
		})
	})
}

func check(t *rapid.T, what string, err error, outcome fence.HeadOutcome, twin fence.Shard) {
	t.Helper()
	var mismatch *MismatchError
	switch outcome {
	case fence.Applied:
		if err != nil {
			t.Fatalf("%s = %v, fence says %v", what, err, outcome)
		}
	case fence.Superseded:
		if !errors.Is(err, ErrSuperseded) {
			t.Fatalf("%s = %v, fence says %v", what, err, outcome)
		}
	default:
		if !errors.As(err, &mismatch) {
			t.Fatalf("%s = %v, fence says %v", what, err, outcome)
		}
		if mismatch.Found != twin.Found || mismatch.Replid != twin.Replid {
			t.Fatalf("%s = %+v, want found %v, replication id %s", what, mismatch, twin.Found, twin.Replid)
		}
		if got, want := strings.Join(mismatch.Head.Fields(), " "), strings.Join(twin.Head.Fields(), " "); got != want {
			t.Fatalf("%s answers HEAD\n%s, fence has\n%s", what, got, want)
		}
	}
}
