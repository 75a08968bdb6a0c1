package trail_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/trail"
	"github.com/freshet/freshet/mvcc"
)

func byName() *rule.Entry {
	e := entry("byname", rule.Rule{Bind: []string{"name"}})
	e.Params[0].Type = keytext.String
	return e
}

// bulk is one transaction that updates n rows of one name, of which two entries have keys.
func bulk(n int) *trail.Log {
	log := trail.New(0)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}), byName())
	f.begin(7)
	rel := relation(change.IdentityDefault)
	for i := range n {
		f.router.Row(&change.Row{Op: change.Update, Relation: rel, New: []change.Value{text(strconv.Itoa(i)), text("x")}}, f.keys)
	}
	f.recorder.Applied(7)
	return log
}

// TestReadingOneLargeTransaction: reading the history of a key must not take quadratic time in the rows of a transaction.
func TestReadingOneLargeTransaction(t *testing.T) { //nolint:paralleltest // it measures what the process allocates
	took := map[int]time.Duration{}
	for _, n := range []int{2_500, 5_000, 10_000} {
		log := bulk(n)
		var before, after runtime.MemStats
		var got int
		took[n] = time.Hour
		for try := 0; try < 3 && took[n] > 2*time.Second; try++ { // another process may have had the machine
			began := time.Now()
			runtime.ReadMemStats(&before)
			got = len(read(log, "byname", "byname:x"))
			runtime.ReadMemStats(&after)
			took[n] = time.Since(began)
		}
		t.Logf("%d rows: %d events, %s, %d MiB allocated; log %d bytes", n, got, took[n], (after.TotalAlloc-before.TotalAlloc)>>20, log.Size())
	}
	if took[10_000] > 2*time.Second {
		t.Errorf("reading what one transaction of 10,000 rows did to a key took %s", took[10_000])
	}
}

// TestReadingManyTransactions is the memory of a reading that is asked for few events.
func TestReadingManyTransactions(t *testing.T) { //nolint:paralleltest // it measures what the process allocates
	log := trail.New(0)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	rel := relation(change.IdentityDefault)
	for i := range 300_000 {
		f.begin(mvcc.XID(i + 1))
		f.keys.Reset()
		f.router.Row(&change.Row{Op: change.Update, Relation: rel, New: []change.Value{text("1"), text("x")}}, f.keys)
		f.recorder.Applied(mvcc.XID(i + 1))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	events, _, _, _ := log.Read(t.Context(), trail.Query{Entry: "product", Key: "product:1", Most: 1000})
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	t.Logf("%d events in %s, %d MiB allocated, heap %d MiB", len(events), took, (after.TotalAlloc-before.TotalAlloc)>>20, (after.HeapAlloc-before.HeapAlloc)>>20)
	if mib := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; mib > 48 {
		t.Errorf("%d MiB for the last 1000 events", mib)
	}
}

// TestTwoRowsAreNotOne: the decoder uses one Row for every row.
func TestTwoRowsAreNotOne(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	f := follow(log, byName())
	f.begin(7)
	rel := relation(change.IdentityFull)
	var row change.Row
	row = change.Row{Op: change.Update, Relation: rel, Old: []change.Value{text("1"), text("a")}, New: []change.Value{text("1"), text("b")}}
	f.router.Row(&row, f.keys)
	row = change.Row{Op: change.Update, Relation: rel, Old: []change.Value{text("2"), text("b")}, New: []change.Value{text("2"), text("c")}}
	f.router.Row(&row, f.keys)
	for _, e := range read(log, "byname", "byname:b") {
		t.Log(e.Image, e.Why)
		if e.Image == "both" {
			t.Errorf("row 1 was not of the key before: %s", e.Why)
		}
	}
}

// TestIntentHidesRow: what a transaction says itself is not what a row did.
func TestIntentHidesRow(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	f.begin(7)
	f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
	f.router.Row(&change.Row{Op: change.Update, Relation: relation(change.IdentityDefault), New: []change.Value{text("5"), text("x")}}, f.keys)
	f.begin(8)
	f.router.Row(&change.Row{Op: change.Update, Relation: relation(change.IdentityDefault), New: []change.Value{text("5"), text("x")}}, f.keys)
	f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
	got := read(log, "product", "product:5")
	for _, e := range got {
		t.Log(e.XID, e.Table, e.Why)
	}
	if len(got) != 4 {
		t.Errorf("%d events, want a row and a word of the transaction itself, twice", len(got))
	}
}

func lookups() (_ *trail.Log, begin func() *follower, insert func(f *follower, xid mvcc.XID, id, name string)) {
	log := trail.New(1)
	lookup := rule.Rule{Class: rule.Lookup, Lookup: &rule.LookupQuery{From: []string{"name"}, Types: []keytext.Type{keytext.String}}}
	begin = func() *follower { return follow(log, entry("product", lookup)) }
	insert = func(f *follower, xid mvcc.XID, id, name string) {
		f.begin(xid)
		f.keys.Reset()
		f.router.Row(&change.Row{Op: change.Insert, Relation: relation(change.IdentityDefault), New: []change.Value{text(id), text(name)}}, f.keys)
	}
	return log, begin, insert
}

// TestLookUpOfForgottenRows: a key that a look-up for several rows found is not of the one that happens to be remembered.
func TestLookUpOfForgottenRows(t *testing.T) {
	t.Parallel()
	log, start, insert := lookups()
	f := start()
	insert(f, 1, "10", "a")
	for range 10 { // three segments forget it; other entries' events as well would
		f.begin(2)
		for i := range 2000 {
			f.keys.Reset()
			f.router.Key("product", []keytext.Arg{{Text: strconv.Itoa(i)}}, f.keys)
		}
	}
	insert(f, 3, "30", "c")
	f.recorder.Found(0, 0, []byte("product:5"), 3, 16, 48, 2)
	for _, e := range read(log, "product", "product:5") {
		if e.XID == 3 {
			t.Errorf("of two rows that were asked for together the one that is remembered is said to have done it: %s", e.Why)
		}
	}
}

// TestLookUpReadAgain: a transaction that was not applied is read again, and looked up.
func TestLookUpReadAgain(t *testing.T) {
	t.Parallel()
	log, start, insert := lookups()
	insert(start(), 1, "10", "a")
	f := start()
	insert(f, 1, "10", "a")
	f.recorder.Found(0, 0, []byte("product:5"), 1, 16, 16, 1)
	f.recorder.Applied(1)
	for _, e := range read(log, "product", "product:5") {
		t.Log(e.XID, e.Why)
		if e.XID != 1 {
			t.Errorf("it was one row of transaction 1: %s", e.Why)
		}
	}
}

// TestLookUpIsNotApplied: what was found is not applied by having been found.
func TestLookUpIsNotApplied(t *testing.T) {
	t.Parallel()
	log, start, insert := lookups()
	f := start()
	insert(f, 1, "10", "a")
	insert(f, 2, "20", "b")
	f.recorder.Found(0, 0, []byte("product:5"), 2, 16, 32, 2)
	for _, e := range read(log, "product", "product:5") {
		if !e.Applied.IsZero() {
			t.Errorf("neither transaction is applied: %+v", e)
		}
	}
}

// TestReloadRenames: an entry whose declaration changed has another name.
func TestReloadRenames(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	one := entry("product", rule.Rule{Bind: []string{"id"}})
	one.Activation = "a1"
	log.Session([]*rule.Entry{one}, nil, 0).Published([]*rule.Entry{one})
	two := entry("product", rule.Rule{Bind: []string{"id"}})
	two.Definition, two.Activation = "other", "a2"
	log.Session([]*rule.Entry{two}, nil, 0).Published([]*rule.Entry{two})
	if got := read(log, "product", "product:5"); len(got) != 1 || got[0].Kind != trail.Renamed {
		t.Errorf("a reload gave the entry another name, and the history says %+v", got)
	}
}

// TestAppliedBeforeTheBreak: the store has applied a transaction whose batch's answer was lost, so that the next session skips it.
func TestAppliedBeforeTheBreak(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	f.begin(7)
	f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
	// The session breaks; the next one finds Wc behind transaction 7, and goes on.
	f = followFrom(log, 7*16, entry("product", rule.Rule{Bind: []string{"id"}}))
	f.begin(8)
	f.router.Key("product", []keytext.Arg{{Text: "5"}}, f.keys)
	f.recorder.Applied(8)
	if got := read(log, "product", "product:5"); got[0].Applied.IsZero() {
		t.Errorf("it is in the store, and is said not to be applied for ever: %+v", got[0])
	}
}

// TestPlansReset: a Recorder that lives on when plans are forgotten must not write to others.
func TestPlansReset(t *testing.T) {
	t.Parallel()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("panic: %v", p)
		}
	}()
	log := trail.New(0)
	var many []*rule.Entry
	for i := range 16_000 {
		e := entry("e"+strconv.Itoa(i), rule.Rule{Bind: []string{"id"}})
		e.Activation = "a"
		many = append(many, e)
	}
	old := log.Session(many, nil, 0)
	one := entry("product", rule.Rule{Bind: []string{"id"}})
	var more []*rule.Entry
	more = append(more, one)
	for i := range 500 {
		e := entry("f"+strconv.Itoa(i), rule.Rule{Bind: []string{"id"}})
		more = append(more, e)
	}
	log.Session(more, nil, 0)
	keys := route.NewKeys(10, 1000)
	keys.Watch(old)
	old.Begin(change.Begin{XID: 3, End: 48})
	route.New(many).Key("e0", []keytext.Arg{{Text: "5"}}, keys)
	read(log, "product", "e0:5")
	old.Published(many)
}

// TestAnotherDaemonWasActive: since when nothing was missed is not before what another daemon applied.
func TestAnotherDaemonWasActive(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	f := follow(log, entry("product", rule.Rule{Bind: []string{"id"}}))
	f.recorder.Reached(160)
	_, first, _, _ := log.Read(t.Context(), trail.Query{Entry: "product"})
	followFrom(log, 160, entry("product", rule.Rule{Bind: []string{"id"}})).recorder.Reached(320)
	if _, since, _, _ := log.Read(t.Context(), trail.Query{Entry: "product"}); !since.Equal(first) {
		t.Errorf("nothing was missed, and since is %s, not %s", since, first)
	}
	followFrom(log, 336, entry("product", rule.Rule{Bind: []string{"id"}}))
	if _, since, _, _ := log.Read(t.Context(), trail.Query{Entry: "product"}); !since.After(first) {
		t.Errorf("another daemon has applied something meanwhile, and all since %s is said to be known", since)
	}
}

// TestReadingGivesUp: with its context.
func TestReadingGivesUp(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := log.Read(ctx, trail.Query{Entry: "product"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestRefusedIsSaid: once, and what an entry is that can be planned again.
func TestRefusedIsSaid(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	recorder := log.Session(nil, nil, 0)
	recorder.Published(nil)
	recorder.Refused("product", "column name does not exist")
	recorder.Refused("product", "column name does not exist")
	one := entry("product", rule.Rule{Bind: []string{"id"}})
	one.Activation = "a1"
	log.Session([]*rule.Entry{one}, nil, 0).Published([]*rule.Entry{one})
	got := read(log, "product", "product:5")
	if len(got) != 3 || got[0].Why != "the entry is not cached: column name does not exist" || got[1].Kind != trail.Renamed || got[2].Why != "the entry can be planned again" {
		t.Errorf("%+v", got)
	}
}

// TestBulkOfLookUps: rows of one transaction by which keys are looked up must not be compared with one another.
func TestBulkOfLookUps(t *testing.T) {
	t.Parallel()
	lookup := rule.Rule{Class: rule.Lookup, Lookup: &rule.LookupQuery{From: []string{"name"}, Types: []keytext.Type{keytext.String}}}
	log := trail.New(0)
	f := follow(log, entry("product", lookup))
	f.begin(7)
	rel := relation(change.IdentityDefault)
	const rows = 10_000
	for i := range rows {
		f.router.Row(&change.Row{Op: change.Insert, Relation: rel, New: []change.Value{text(strconv.Itoa(i)), text(strconv.Itoa(i))}}, f.keys)
	}
	f.recorder.Found(0, 0, []byte("product:5"), 7, 112, 112, rows)
	took := time.Hour
	for try := 0; try < 3 && took > 2*time.Second; try++ { // another process may have had the machine
		began := time.Now()
		read(log, "product", "product:5")
		took = time.Since(began)
	}
	if took > 2*time.Second {
		t.Errorf("reading what %d rows of one transaction did took %s", rows, took)
	}
}

// TestLookUpsReadAgain: several transactions that are read again are not in the order of the log any more.
func TestLookUpsReadAgain(t *testing.T) {
	t.Parallel()
	log, start, insert := lookups()
	f := start()
	for i := range 4 {
		insert(f, mvcc.XID(i+1), strconv.Itoa(i+10), strconv.Itoa(i))
	}
	f = start()
	for i := range 4 {
		insert(f, mvcc.XID(i+1), strconv.Itoa(i+10), strconv.Itoa(i))
	}
	for i := range 4 {
		f.recorder.Found(0, 0, []byte("product:5"), mvcc.XID(i+1), mvcc.LSN(i+1)*16, mvcc.LSN(i+1)*16, 1)
		f.recorder.Applied(mvcc.XID(i + 1))
	}
	got := read(log, "product", "product:5")
	for i, e := range got {
		t.Log(e.XID, e.Why)
		if e.XID != mvcc.XID(i+1) || e.Op == "" {
			t.Errorf("it was the row of transaction %d: %+v", i+1, e)
		}
	}
}

// TestRefusedTwice: an entry that is refused, mended, and refused again for the same reason.
func TestRefusedTwice(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	e := entry("product", rule.Rule{Bind: []string{"id"}})
	e.Activation = "a1"
	log.Session([]*rule.Entry{e}, nil, 0).Published([]*rule.Entry{e})
	log.Session(nil, nil, 0).Refused("product", "column x is gone")
	log.Session([]*rule.Entry{e}, nil, 0).Published([]*rule.Entry{e}) // with the name that it had, or another
	log.Session(nil, nil, 0).Refused("product", "column x is gone")
	got := read(log, "product", "product:5")
	for _, e := range got {
		t.Log(e.Kind, e.Why)
	}
	if len(got) != 3 {
		t.Errorf("it was refused twice and mended once: %d events", len(got))
	}
}

// TestFoundBetweenTheImages: the applier writes beside the router; a key that it has found between the two images of a row takes nothing
// away from what is read of that row.
func TestFoundBetweenTheImages(t *testing.T) {
	t.Parallel()
	log, start, _ := lookups()
	f := start()
	row := &change.Row{Op: change.Update, Relation: relation(change.IdentityDefault), New: []change.Value{text("5"), text("x")}, Old: []change.Value{text("5"), text("x")}}
	f.begin(1)
	f.recorder.Held(0, route.AKey, []byte("product:5"), &route.Cause{Row: row, Number: 1, Old: true})
	f.recorder.Found(0, 0, []byte("product:5"), 1, 1, 2, 2)
	f.recorder.Held(0, route.AKey, []byte("product:5"), &route.Cause{Row: row, Number: 1})
	if got := read(log, "product", "product:5"); got[0].Image != "both" {
		t.Errorf("%s: %s", got[0].Image, got[0].Why)
	}
}

// TestReasonsAreBounded: a reason may be as long as the text of an entry, and is remembered as far as it is worth it.
func TestReasonsAreBounded(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	long := strings.Repeat("x", 1<<20)
	log.Session(nil, nil, 0).Refused("product", long)
	log.Generation(long)
	for _, e := range read(log, "product", "product:5") {
		if len(e.Why) > 2<<10 {
			t.Errorf("%s: a reason of %d bytes", e.Kind, len(e.Why))
		}
	}
	if held := log.Size(); held > 1<<20 {
		t.Errorf("%d bytes are held", held)
	}
}

// TestNothingMoreOfARow: of a row that the log has whole, and that has no key, the history of an entry's key has what that entry's own rule looks at.
func TestNothingMoreOfARow(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	two := entry("product", rule.Rule{Bind: []string{"id"}}, rule.Rule{Bind: []string{"name"}})
	two.Params[0].Type = keytext.String
	f := &follower{router: route.New([]*rule.Entry{two, byName()}), keys: route.NewKeys(100, 10_000), recorder: log.Session([]*rule.Entry{two, byName()}, nil, 0)}
	f.keys.Watch(f.recorder)
	f.begin(1)
	f.router.Row(&change.Row{Op: change.Insert, Relation: relation(change.IdentityFull), New: []change.Value{text("1"), text("x")}}, f.keys)
	for key, want := range map[string]string{"product:1": "id = 1", "product:x": "name = x", "byname:x": "name = x"} {
		name, _, _ := strings.Cut(key, ":")
		got := read(log, name, key)
		if len(got) != 1 || got[0].Why != "INSERT of public.products where "+want {
			t.Errorf("%s: %+v, want %s", key, got, want)
		}
	}
}

// TestImagesOfATag: an UPDATE that leaves the tag's column alone did it by either image.
func TestImagesOfATag(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	tag := rule.Rule{Class: rule.Tag, Tag: &rule.TagQuery{From: []string{"id"}, Types: []keytext.Type{keytext.Int8}}}
	f := follow(log, entry("product", tag))
	f.begin(7)
	f.router.Row(&change.Row{
		Op: change.Update, Relation: relation(change.IdentityFull), Old: []change.Value{text("1"), text("a")}, New: []change.Value{text("1"), text("b")},
	}, f.keys)
	for _, name := range []string{"~0:1", "~0+"} {
		for _, e := range read(log, "product", "product:1", name) {
			if e.Image != "both" || strings.Contains(e.Why, "as the row") {
				t.Errorf("%s: image %q, want both: %s", e.Epoch, e.Image, e.Why)
			}
		}
	}
}

// TestRowsOfOneValue: rows are counted, not what was asked by, and a transaction that they all are of is named.
func TestRowsOfOneValue(t *testing.T) {
	t.Parallel()
	lookup := rule.Rule{Class: rule.Lookup, Lookup: &rule.LookupQuery{From: []string{"name"}, Types: []keytext.Type{keytext.String}}}
	log := trail.New(0)
	f := follow(log, entry("product", lookup))
	f.begin(7)
	for i := range 4 {
		f.router.Row(&change.Row{
			Op: change.Insert, Relation: relation(change.IdentityDefault), New: []change.Value{text(strconv.Itoa(i)), text(strconv.Itoa(i % 2))},
		}, f.keys)
	}
	f.recorder.Found(0, 0, []byte("product:5"), 7, 112, 112, 2)
	f.recorder.Applied(7)
	got := read(log, "product", "product:5")
	if len(got) != 1 || got[0].XID != 7 || got[0].Committed.IsZero() || got[0].Applied.IsZero() || !strings.HasPrefix(got[0].Why, "one of 4 changed rows") {
		t.Errorf("four rows of transaction 7 with two values: %+v", got)
	}
}
