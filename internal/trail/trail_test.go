package trail_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/trail"
	"github.com/freshet/freshet/mvcc"
)

func text(s string) change.Value { return change.Value{Kind: change.Text, Text: []byte(s)} }

func relation(identity change.Identity) *change.Relation {
	return &change.Relation{OID: 1, Schema: "public", Name: "products", Identity: identity, Columns: []change.Column{
		{Name: "id", Key: true}, {Name: "name", Key: identity == change.IdentityFull},
	}}
}

func entry(name string, rules ...rule.Rule) *rule.Entry {
	for i := range rules {
		rules[i].Schema, rules[i].Table = "public", "products"
	}
	return &rule.Entry{
		Name: name, Definition: "d", Version: "v", Key: name + ":{id}", Params: []rule.Param{{Name: "id", Type: keytext.Int8}}, Rules: rules,
	}
}

// follower routes rows as the pipeline does.
type follower struct {
	router   *route.Router
	recorder *trail.Recorder
	keys     *route.Keys
}

func follow(log *trail.Log, entries ...*rule.Entry) *follower { return followFrom(log, 0, entries...) }

func followFrom(log *trail.Log, applied mvcc.LSN, entries ...*rule.Entry) *follower {
	f := &follower{router: route.New(entries), keys: route.NewKeys(1<<20, 1<<24)}
	f.recorder = log.Session(entries, map[schema.Name][]string{{Schema: "public", Name: "products"}: {"id"}}, applied)
	f.keys.Watch(f.recorder)
	return f
}

func (f *follower) begin(xid mvcc.XID) {
	f.recorder.Begin(change.Begin{XID: xid, End: mvcc.LSN(xid) * 16, Committed: time.UnixMicro(int64(xid))})
}

func read(log *trail.Log, name, key string, epochs ...string) []trail.Event {
	events, _, _, _ := log.Read(context.Background(), trail.Query{Entry: name, Key: key, Epochs: epochs})
	return events
}

// TestWhatARowDid is the whole of what is remembered of a row.
func TestWhatARowDid(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	f := follow(log, entry("other", rule.Rule{Bind: []string{"id"}}), entry("product", rule.Rule{Bind: []string{"name"}}, rule.Rule{Bind: []string{"id"}}))
	f.begin(7)
	full := relation(change.IdentityFull)
	row := func(op change.Op, before, after []change.Value) {
		f.router.Row(&change.Row{Op: op, Relation: full, Old: before, New: after}, f.keys)
	}
	row(change.Insert, nil, []change.Value{text("1"), text("9")})
	row(change.Update, []change.Value{text("1"), text("9")}, []change.Value{text("2"), text("9")})
	f.begin(8)
	row(change.Delete, []change.Value{text("2"), {Kind: change.Null}}, nil)
	f.recorder.Applied(7)
	f.recorder.Applied(99)

	one := trail.Event{
		Kind: trail.Invalidated, XID: 7, LSN: 112, Committed: time.UnixMicro(7), Version: "v", Table: "public.products", Op: "INSERT",
		Row: []trail.Field{{Column: "id", Value: new("1")}}, Image: "new", Rule: 2, Class: "EXACT", Why: "INSERT of public.products where id = 1",
	}
	two := one
	two.Op, two.Image, two.Why = "UPDATE", "old", "UPDATE of public.products where id = 1, as the row was before"
	times := cmpopts.IgnoreFields(trail.Event{}, "At", "Applied")
	got := read(log, "product", "product:1")
	if diff := cmp.Diff([]trail.Event{one, two}, got, times); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, e := range got {
		if e.Applied.IsZero() || e.At.IsZero() {
			t.Errorf("transaction 7 is applied: %+v", e)
		}
	}
	three, four := one, one
	three.Op, three.Why, three.Row = "UPDATE", "UPDATE of public.products where id = 2, as the row is now", []trail.Field{{Column: "id", Value: new("2")}}
	four.XID, four.LSN, four.Committed, four.Op, four.Image = 8, 128, time.UnixMicro(8), "DELETE", "old"
	four.Why, four.Row = "DELETE of public.products where id = 2", three.Row
	got = read(log, "product", "product:2")
	if diff := cmp.Diff([]trail.Event{three, four}, got, times); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(got); n != 2 || !got[1].Applied.IsZero() {
		t.Errorf("transaction 8 is not applied: %+v", got)
	}
	if got := read(log, "other", "product:1"); len(got) != 0 {
		t.Errorf("another entry's: %+v", got)
	}
}

// TestIdentities: the columns that name a row are the primary key, or what the log names it by.
func TestIdentities(t *testing.T) {
	t.Parallel()
	both := map[schema.Name][]string{{Schema: "public", Name: "products"}: {"id", "name"}}
	for name, test := range map[string]struct {
		relation *change.Relation
		keys     map[schema.Name][]string
		row      change.Row
		want     string
	}{
		"default": {
			relation: relation(change.IdentityDefault), row: change.Row{Op: change.Update, New: []change.Value{text("1"), text("x")}},
			want: "UPDATE of public.products where id = 1",
		},
		"whole, with a primary key": {
			relation: relation(change.IdentityFull), keys: map[schema.Name][]string{{Schema: "public", Name: "products"}: {"id"}},
			row: change.Row{Op: change.Insert, New: []change.Value{text("1"), text("x")}}, want: "INSERT of public.products where id = 1",
		},
		"whole, without": {
			relation: relation(change.IdentityFull), row: change.Row{Op: change.Insert, New: []change.Value{text("1"), {Kind: change.Null}}},
			want: "INSERT of public.products where id = 1", // what the rule looks at, and no more
		},
		"none": {
			relation: func() *change.Relation {
				r := relation(change.IdentityNothing)
				r.Columns[0].Key = false
				return r
			}(),
			row: change.Row{Op: change.Insert, New: []change.Value{text("1"), text("x")}}, want: "INSERT of public.products",
		},
		"long and not of this encoding": {
			relation: relation(change.IdentityFull), keys: both,
			row:  change.Row{Op: change.Insert, New: []change.Value{text("1"), text("\xff" + strings.Repeat("x", 200))}},
			want: "INSERT of public.products where id = 1, name = \uFFFD" + strings.Repeat("x", 127) + "…",
		},
		"a large value that the UPDATE did not touch": {
			relation: relation(change.IdentityFull), keys: both,
			row: change.Row{
				Op: change.Update, Old: []change.Value{text("1"), text("large")}, New: []change.Value{text("1"), {Kind: change.Unchanged}},
			},
			want: "UPDATE of public.products where id = 1, name = large",
		},
	} {
		log := trail.New(0)
		e := entry("product", rule.Rule{Bind: []string{"id"}})
		f := &follower{router: route.New([]*rule.Entry{e}), keys: route.NewKeys(10, 1000), recorder: log.Session([]*rule.Entry{e}, test.keys, 0)}
		f.keys.Watch(f.recorder)
		f.begin(1)
		test.row.Relation = test.relation
		f.router.Row(&test.row, f.keys)
		got := read(log, "product", "product:1")
		if len(got) != 1 || got[0].Why != test.want {
			t.Errorf("%s: %+v, want %q", name, got, test.want)
		}
	}
}

// TestEpochsLookUpsAndMoves is what is not a key of the row.
func TestEpochsLookUpsAndMoves(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	tag := rule.Rule{Class: rule.Tag, Tag: &rule.TagQuery{From: []string{"name"}, Types: []keytext.Type{keytext.String}}}
	lookup := rule.Rule{Class: rule.Lookup, Lookup: &rule.LookupQuery{From: []string{"name"}, Types: []keytext.Type{keytext.String}}}
	f := follow(log, entry("product", tag, lookup))
	insert := func(xid mvcc.XID, id, name string) {
		f.begin(xid)
		f.router.Row(&change.Row{Op: change.Insert, Relation: relation(change.IdentityDefault), New: []change.Value{text(id), text(name)}}, f.keys)
	}
	insert(1, "10", "a")
	insert(2, "20", "b")
	insert(3, "30", "b")
	f.recorder.Found(0, 1, []byte("product:5"), 1, 16, 16, 1)
	f.recorder.Found(0, 1, []byte("product:5"), 3, 32, 48, 2)
	f.recorder.Found(0, 1, []byte("product:6"), 3, 32, 48, 2)
	f.recorder.Applied(1)
	f.begin(4)
	f.router.Whole("product", f.keys)
	f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
	f.recorder.Published([]*rule.Entry{{Name: "product", Activation: "a1"}})
	f.recorder.Published([]*rule.Entry{{Name: "product", Activation: "a1"}})
	f.recorder.Published([]*rule.Entry{{Name: "product", Activation: "a2"}})
	f.recorder.Published([]*rule.Entry{{Name: "product", Activation: "a2", Suspended: "for a test"}})
	log.Generation("the slot is lost")

	var got []string
	for _, e := range read(log, "product", "product:5", "~0:b", "~0+") {
		got = append(got, fmt.Sprintf("%s %d %d %s: %s", e.Kind, e.XID, e.Rule, e.Epoch, e.Why))
	}
	want := []string{
		"epoch_ended 1 1 ~0+: INSERT of public.products where id = 10: every key that is tied to ~0+",
		"epoch_ended 2 1 ~0:b: INSERT of public.products where id = 20: every key that is tied to ~0:b",
		"epoch_ended 2 1 ~0+: INSERT of public.products where id = 20: every key that is tied to ~0+",
		"epoch_ended 3 1 ~0:b: INSERT of public.products where id = 30: every key that is tied to ~0:b",
		"epoch_ended 3 1 ~0+: INSERT of public.products where id = 30: every key that is tied to ~0+",
		"looked_up 1 2 : INSERT of public.products where id = 10: the database was asked which keys that affects",
		"looked_up 0 2 : one of 2 changed rows of public.products: the database was asked which keys they affect together",
		"everything 4 0 : every key of the entry may be affected: invalidated by hand",
		"invalidated 4 0 : a transaction named it itself: a write-through, or somebody by hand",
		"renamed 0 0 : the entry has a new name: nothing that was cached under the one before is read any more",
		"renamed 0 0 : the entry is not cached: for a test",
		"generation 0 0 : a new generation began, with nothing cached: the slot is lost",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReadAgain: what the log says again, since it was not applied yet, or for another version of the entry, is remembered once.
func TestReadAgain(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	second := entry("product", rule.Rule{Bind: []string{"id"}})
	second.Definition, second.Version = "other", "w"
	rows := func(f *follower) {
		f.begin(7)
		for _, id := range []string{"1", "2"} {
			f.router.Row(&change.Row{Op: change.Update, Relation: relation(change.IdentityDefault), New: []change.Value{text(id), text("x")}}, f.keys)
		}
		f.router.Key("product", []keytext.Arg{{Text: "1"}}, f.keys)
		f.router.Whole("product", f.keys)
	}
	rows(follow(log, entry("product", rule.Rule{Bind: []string{"id"}})))
	again := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}), second)
	rows(again)
	again.recorder.Applied(7)
	var got []string
	for _, e := range read(log, "product", "product:1") {
		got = append(got, fmt.Sprintf("%s %s %s %v", e.Kind, e.Why, e.Image, !e.Applied.IsZero()))
	}
	want := []string{
		"invalidated UPDATE of public.products where id = 1 both true",
		"invalidated a transaction named it itself: a write-through, or somebody by hand  true",
		"everything every key of the entry may be affected: invalidated by hand  true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Another transaction is another one.
	again.begin(8)
	again.router.Key("product", []keytext.Arg{{Text: "1"}}, again.keys)
	if n := len(read(log, "product", "product:1")); n != len(want)+1 {
		t.Errorf("%d events", n)
	}
}

// TestModel holds a small log that forgets against a list that does not: what is read is the end of the list, and since when is before
// everything that is read.
func TestModel(t *testing.T) {
	t.Parallel()
	forgot := false
	rapid.Check(t, func(t *rapid.T) {
		log := trail.New(1) // as small as can be
		line := entry("line", rule.Rule{Bind: []string{"name"}})
		line.Params[0].Type = keytext.String
		f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}), line)
		long := strings.Repeat("k", rapid.IntRange(1, 3000).Draw(t, "length"))
		all := map[string][]mvcc.XID{}
		note := func(key string, xid mvcc.XID) {
			if xids := all[key]; len(xids) == 0 || xids[len(xids)-1] != xid {
				all[key] = append(xids, xid)
			}
		}
		xid := mvcc.XID(0)
		for range rapid.IntRange(1, 300).Draw(t, "transactions") {
			xid++
			f.begin(xid)
			f.keys.Reset()
			for range rapid.IntRange(1, 4).Draw(t, "rows") {
				id, name := rapid.IntRange(1, 3).Draw(t, "id"), fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "name"), long)
				f.router.Row(&change.Row{
					Op: change.Insert, Relation: relation(change.IdentityDefault), New: []change.Value{text(strconv.Itoa(id)), text(name)},
				}, f.keys)
				note(fmt.Sprint("product:", id), xid)
			}
			if rapid.Bool().Draw(t, "applied") {
				f.recorder.Applied(xid)
			}
		}
		for key, want := range all {
			events, since, _, err := log.Read(context.Background(), trail.Query{Entry: "product", Key: key})
			if err != nil {
				t.Fatal(err)
			}
			got := make([]mvcc.XID, 0, len(events))
			for _, e := range events {
				if n := len(got); n == 0 || got[n-1] != e.XID {
					got = append(got, e.XID)
				}
				if e.LSN != mvcc.LSN(e.XID)*16 || e.Committed.UnixMicro() != int64(e.XID) {
					t.Fatalf("transaction %d has the fields of another: %+v", e.XID, e)
				}
			}
			forgot = forgot || len(got) < len(want)
			if !cmp.Equal(want[len(want)-len(got):], got, cmpopts.EquateEmpty()) {
				t.Fatalf("%s: got %v, want the end of %v", key, got, want)
			}
			if last := want[len(want)-1]; xid-last < 5 && len(got) == 0 {
				t.Fatalf("%s: transaction %d of %d is forgotten already", key, last, xid)
			}
			if since.IsZero() {
				t.Fatal("there is a time from when on it remembers")
			}
		}
	})
	if !forgot {
		t.Error("nothing was ever forgotten: the test shows nothing of that")
	}
}

// TestBounded: however much is written, no more is kept, and since when it is known moves on.
func TestBounded(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	log := trail.New(size)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	_, began, _, _ := log.Read(t.Context(), trail.Query{Entry: "product"})
	rel := relation(change.IdentityDefault)
	for i := range 200_000 {
		f.begin(mvcc.XID(i))
		f.keys.Reset()
		f.router.Row(&change.Row{Op: change.Insert, Relation: rel, New: []change.Value{text(strconv.Itoa(i)), text("x")}}, f.keys)
	}
	if held := log.Size(); held > size {
		t.Errorf("%d bytes are held, of %d", held, size)
	}
	_, since, _, _ := log.Read(t.Context(), trail.Query{Entry: "product"})
	if !since.After(began) {
		t.Errorf("what happened since %s is said to be remembered", since)
	}
	if got := read(log, "product", "product:199999"); len(got) != 1 {
		t.Errorf("the last is not remembered: %+v", got)
	}
	if got := read(log, "product", "product:1"); len(got) != 0 {
		t.Errorf("the first is: %+v", got)
	}
	events, _, more, _ := log.Read(t.Context(), trail.Query{Entry: "product", Key: "product:199999", Most: 0})
	if more || len(events) != 1 {
		t.Errorf("more than are there: %v %d", more, len(events))
	}
}

// TestMost: the last ones are read, and that there are others is said.
func TestMost(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	for i := range 10 {
		f.begin(mvcc.XID(i + 1))
		f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
	}
	events, _, more, _ := log.Read(t.Context(), trail.Query{Entry: "product", Key: "product:5", Most: 3})
	if len(events) != 3 || !more || events[2].XID != 10 {
		t.Errorf("%v %+v", more, events)
	}
}

// TestReadBesideWriting is for the race detector.
func TestReadBesideWriting(t *testing.T) {
	t.Parallel()
	log := trail.New(1)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					read(log, "product", "product:5")
				}
			}
		})
	}
	for i := range 20_000 {
		f.begin(mvcc.XID(i + 1))
		f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
		f.recorder.Applied(mvcc.XID(i + 1))
	}
	close(done)
	readers.Wait()
}

// BenchmarkRow is what a row costs, with and without being remembered.
func BenchmarkRow(b *testing.B) {
	for name, log := range map[string]*trail.Log{"without": nil, "with": trail.New(0)} {
		b.Run(name, func(b *testing.B) {
			e := entry("product", rule.Rule{Bind: []string{"id"}})
			router, keys := route.New([]*rule.Entry{e}), route.NewKeys(8<<10, 1<<20)
			var recorder *trail.Recorder
			if log != nil {
				recorder = log.Session([]*rule.Entry{e}, nil, 0)
				keys.Watch(recorder)
				recorder.Begin(change.Begin{XID: 1, End: 16})
			}
			rel := relation(change.IdentityDefault)
			id := []byte("1000000")
			row := change.Row{Op: change.Update, Relation: rel, New: []change.Value{{Kind: change.Text, Text: id}, text("x")}}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if keys.Full() {
					keys.Reset()
				}
				i++
				for at, n := len(id)-1, i; at >= 0; at, n = at-1, n/10 {
					id[at] = byte('0' + n%10)
				}
				router.Row(&row, keys)
			}
		})
	}
}
