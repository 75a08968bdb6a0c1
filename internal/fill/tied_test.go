package fill_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// withEpochs is a world with entries whose values are tied to epochs: one of each class.
type withEpochs struct{ *world }

// The entries: the products below a price (BROAD, of product), the teams of a user with a number above another (GROUP, of
// member: the user is known of a row, the number is not), and the names of a user's teams (EXACT of member, TAG of team).
const (
	belowKey = "below:{than}"
	aboveKey = "above:{user}:{than}"
	teamsKey = "teams:{user}"
)

func tiedDeclarations() []rule.Declared {
	return []rule.Declared{
		{Name: "below", Key: belowKey, Query: "SELECT id FROM product WHERE price < @than ORDER BY id", Result: rule.Many},
		{Name: "above", Key: aboveKey, Query: "SELECT team_id FROM member WHERE user_id = @user AND team_id > @than ORDER BY 1", Result: rule.Many},
		{Name: "teams", Key: teamsKey, Query: "SELECT t.id, t.name FROM member m JOIN team t ON t.id = m.team_id WHERE m.user_id = @user ORDER BY 1", Result: rule.Many},
	}
}

func newTied(t *testing.T, o options) *withEpochs {
	t.Helper()
	w := &withEpochs{newWorld(t, o)}
	w.pg.Exec(t, w.url, `CREATE TABLE team (id int4 PRIMARY KEY, name text)`,
		`CREATE TABLE member (user_id int8, team_id int8, PRIMARY KEY (user_id, team_id))`,
		`INSERT INTO team SELECT i, 'team ' || i FROM generate_series(1, 400) i`,
		`INSERT INTO member VALUES (1, 7), (1, 8), (2, 8), (3, 999)`)
	w.tie(2)
	return w
}

// tie publishes a roster with the entries.
func (w *withEpochs) tie(revision uint64) {
	w.t.Helper()
	roster := w.newRoster(revision)
	eight := func(name string) rule.Param { return rule.Param{Name: name, Type: keytext.Int8} }
	for _, d := range tiedDeclarations() {
		e := &rule.Entry{Name: d.Name, Definition: d.Digest(), Key: d.Key, Result: d.Result}
		switch d.Name {
		case "below":
			e.Params, e.SQL = []rule.Param{eight("than")}, "SELECT id FROM public.product WHERE price < $1 ORDER BY id"
			e.Rules = []rule.Rule{{Schema: "public", Table: "product", Class: rule.Broad, Bind: []string{""}}}
		case "above":
			e.Params, e.SQL = []rule.Param{eight("user"), eight("than")}, "SELECT team_id FROM public.member WHERE user_id = $1 AND team_id > $2 ORDER BY 1"
			e.Rules = []rule.Rule{{Schema: "public", Table: "member", Class: rule.Group, Bind: []string{"user_id", ""}}}
		case "teams":
			e.Params = []rule.Param{eight("user")}
			e.SQL = "SELECT t.id, t.name FROM public.member m JOIN public.team t ON t.id = m.team_id WHERE m.user_id = $1 ORDER BY 1"
			e.Rules = []rule.Rule{
				{Schema: "public", Table: "member", Bind: []string{"user_id"}},
				{Schema: "public", Table: "team", Class: rule.Tag, Bind: []string{""}, Tag: &rule.TagQuery{
					SQL: "SELECT m.team_id FROM public.member m WHERE m.user_id = $1", From: []string{"id"}, Types: []keytext.Type{keytext.Int4}, Rank: 1,
				}},
			}
		}
		e.Version, e.Activation = e.Hash(), fmt.Sprintf("%016x", revision)
		roster.Entries[d.Name] = e
	}
	w.move(roster)
}

func (w *withEpochs) tiedReader(kept fill.Store, loader fill.Loader, replicas ...fill.Replica) *fill.Reader {
	w.t.Helper()
	entries := map[string]fill.Entry{}
	for _, d := range tiedDeclarations() {
		entries[d.Name] = fill.Entry{Declared: d, TTL: time.Minute}
	}
	return w.open(fill.Options{Store: kept, Loader: loader, Entries: entries, Replicas: replicas, Followed: -1})
}

// record is the name of a record, and epoch that of an epoch.
func (w *withEpochs) named(entry, key string) string {
	return rule.KeyPrefix(w.namespace, w.head.Generation, w.roster.Entries[entry]) + key
}

func (w *withEpochs) epoch(entry, epoch string) string {
	prefix := rule.KeyPrefix(w.namespace, w.head.Generation, w.roster.Entries[entry])
	return prefix[:len(prefix)-1] + epoch
}

// end is a round of the daemon for what is visible now, which ends epochs.
func (w *withEpochs) end(epochs ...string) {
	w.t.Helper()
	snapshot, lsn := w.gate()
	batch := redisstore.Batch{Expect: w.expected(), Wi: lsn, Si: snapshot, Epochs: epochs, Advance: lsn, Sa: snapshot}
	if _, err := w.daemon.Apply(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
	w.head.Wc = lsn
}

func get(t *testing.T, r *fill.Reader, entry string, args ...string) fill.Value {
	t.Helper()
	v, err := r.Get(t.Context(), entry, texts(args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func texts(args ...string) (all []keytext.Arg) {
	for _, a := range args {
		all = append(all, keytext.Arg{Text: a})
	}
	return all
}

func expect(t *testing.T, v fill.Value, status fill.Status, payload string) {
	t.Helper()
	if v.Status != status || string(v.Payload) != payload {
		t.Fatalf("got %v %s (%s), want %v %s", v.Status, v.Payload, v.Reason, status, payload)
	}
}

// tiedTo is what the record of a key is tied to.
func (w *withEpochs) tiedTo(entry, key string) (names []string) {
	w.t.Helper()
	record, _ := w.record(w.named(entry, key))
	for _, e := range record.Epochs {
		names = append(names, e.Name)
	}
	return names
}

// TestEachClassOfEpochs has values of each class filled, and ended by what affects them and nothing else.
func TestEachClassOfEpochs(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	read := func(status fill.Status, below, above, teams string) {
		t.Helper()
		expect(t, get(t, r, "below", "30"), status, below)
		expect(t, get(t, r, "above", "1", "7"), status, above)
		expect(t, get(t, r, "teams", "1"), status, teams)
	}
	const below, above, teams = `[{"id":1},{"id":2}]`, `[{"team_id":8}]`, `[{"id":7,"name":"team 7"},{"id":8,"name":"team 8"}]`
	read(fill.Miss, below, above, teams)
	read(fill.Hit, below, above, teams)
	for _, tt := range []struct{ entry, key, want string }{
		{"below", "below:30", "~0"}, {"above", "above:1:7", "~0 ~0:1"}, {"teams", "teams:1", "~1 ~1:7 ~1:8"},
	} {
		if got := strings.Join(w.tiedTo(tt.entry, tt.key), " "); got != tt.want {
			t.Errorf("%s is tied to %q, want %q", tt.key, got, tt.want)
		}
	}
	expect(t, get(t, r, "above", "2", "0"), fill.Miss, `[{"team_id":8}]`)
	expect(t, get(t, r, "teams", "2"), fill.Miss, `[{"id":8,"name":"team 8"}]`)

	w.pg.Exec(t, w.url, `UPDATE team SET name = 'seven' WHERE id = 7`, `INSERT INTO member VALUES (1, 9)`, `UPDATE product SET price = 25 WHERE id = 3`)
	w.end(w.epoch("below", "~0"), w.epoch("above", "~0:1"), w.epoch("teams", "~1:7"))
	expect(t, get(t, r, "above", "2", "0"), fill.Hit, `[{"team_id":8}]`)
	expect(t, get(t, r, "teams", "2"), fill.Hit, `[{"id":8,"name":"team 8"}]`)
	const below2, above2, teams2 = `[{"id":1},{"id":2},{"id":3}]`, `[{"team_id":8},{"team_id":9}]`, `[{"id":7,"name":"seven"},{"id":8,"name":"team 8"},{"id":9,"name":"team 9"}]`
	read(fill.Miss, below2, above2, teams2)
	read(fill.Hit, below2, above2, teams2)

	// What is not known of a row ends a rule's own epoch, and with it every value.
	w.end(w.epoch("above", "~0"), w.epoch("teams", "~1"), w.epoch("below", "~0"))
	read(fill.Miss, below2, above2, teams2)
	expect(t, get(t, r, "above", "2", "0"), fill.Miss, `[{"team_id":8}]`)
	expect(t, get(t, r, "teams", "2"), fill.Miss, `[{"id":8,"name":"team 8"}]`)
	if s := r.Stats(); s.Ended != 8 || s.Fills != 13 {
		t.Errorf("stats: %d ended, %d fills, want 8 and 13", s.Ended, s.Fills)
	}
}

// TestTagsWithoutRows: a join value is noted although no row has it yet, and so its row's coming is noticed.
func TestTagsWithoutRows(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	expect(t, get(t, r, "teams", "3"), fill.Miss, `[]`)
	if got := w.tiedTo("teams", "teams:3"); !slices.Equal(got, []string{"~1", "~1:999"}) {
		t.Fatalf("tied to %q", got)
	}
	w.pg.Exec(t, w.url, `INSERT INTO team VALUES (999, 'late')`)
	w.end(w.epoch("teams", "~1:999"))
	expect(t, get(t, r, "teams", "3"), fill.Miss, `[{"id":999,"name":"late"}]`)
}

// TestManyTags: a value with more tags than the bound is tied to the rule's shared epoch instead.
func TestManyTags(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	w.pg.Exec(t, w.url, `INSERT INTO member SELECT 4, i FROM generate_series(1, 256) i`, `INSERT INTO member SELECT 5, i FROM generate_series(1, 257) i`)
	get(t, r, "teams", "4")
	get(t, r, "teams", "5")
	if got := w.tiedTo("teams", "teams:4"); len(got) != 257 || slices.Contains(got, "~1+") {
		t.Errorf("256 tags: tied to %d epochs, %q", len(got), got[:3])
	}
	if got := w.tiedTo("teams", "teams:5"); !slices.Equal(got, []string{"~1", "~1+"}) {
		t.Errorf("257 tags: tied to %q", got)
	}
	get(t, r, "teams", "4")
	if get(t, r, "teams", "4").Status != fill.Hit || get(t, r, "teams", "5").Status != fill.Hit {
		t.Fatal("no hits")
	}
	w.pg.Exec(t, w.url, `UPDATE team SET name = 'x' WHERE id = 300`)
	w.end(w.epoch("teams", "~1:300"), w.epoch("teams", "~1+"))
	if get(t, r, "teams", "4").Status != fill.Hit || get(t, r, "teams", "5").Status != fill.Miss {
		t.Error("a change of one of many does not end what is tied to all of them, or ends more")
	}
}

// changeable is a change of what an entry's value says, and the epoch that it ends.
type changeable struct{ entry, arg, statement, epoch, before, after string }

func changeables() []changeable {
	return []changeable{
		{"below", "20", `UPDATE product SET price = 1 WHERE id = 5`, "~0", `[{"id":1}]`, `[{"id":1},{"id":5}]`},
		{"teams", "2", `UPDATE team SET name = 'eight' WHERE id = 8`, "~1:8", `[{"id":8,"name":"team 8"}]`, `[{"id":8,"name":"eight"}]`},
	}
}

// blind is the store without what HEAD says of epochs that were ended.
type blind struct{ fill.Store }

func (b blind) Pin(ctx context.Context, epochs []string, life time.Duration) (redisstore.Pinned, error) {
	p, err := b.Store.Pin(ctx, epochs, life)
	p.Head.Ended = nil
	return p, err
}

// lapsed is the loader, with a step after each load.
type lapsed struct {
	fill.Loader
	after func()
}

func (l *lapsed) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := l.Loader.Load(ctx, sql, result, args)
	if l.after != nil {
		l.after()
	}
	return loaded, err
}

func (l *lapsed) LoadTagged(ctx context.Context, q pgload.Query, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := l.Loader.LoadTagged(ctx, q, args)
	if l.after != nil {
		l.after()
	}
	return loaded, err
}

// TestEpochEndedDuringLoad: the change comes between the load and the FILL. The epoch is made anew after it was ended, so that
// nothing but HEAD tells that the load lacks what it was ended for. Without asking HEAD, the old row is served for good.
func TestEpochEndedDuringLoad(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	for _, c := range changeables() {
		for _, asks := range []bool{true, false} {
			w.pg.Exec(t, w.url, `UPDATE product SET price = 50 WHERE id = 5`, `UPDATE team SET name = 'team 8' WHERE id = 8`)
			w.end(w.epoch(c.entry, c.epoch))
			kept := fill.Store(w.store)
			if !asks {
				kept = blind{kept}
			}
			loader := &lapsed{Loader: w.loader}
			loader.after = func() {
				loader.after = nil
				w.pg.Exec(t, w.url, c.statement)
				w.end(w.epoch(c.entry, c.epoch))
			}
			v := get(t, w.tiedReader(kept, loader), c.entry, c.arg)
			expect(t, v, fill.Miss, c.before)
			want, status := c.after, fill.Miss
			if !asks {
				want, status = c.before, fill.Hit
			}
			if asks && v.Reason != "epoch_ended" {
				t.Errorf("%s: the load was stored, or not for that: %+v", c.entry, v)
			}
			expect(t, get(t, w.tiedReader(nil, nil), c.entry, c.arg), status, want)
		}
	}
}

// TestUnrelatedEpochsDoNotRefuse: while epochs of other buckets end all the time, a load is stored.
func TestUnrelatedEpochsDoNotRefuse(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	bucket := func(epoch string) fence.Bucket { return fence.BucketOf(w.epoch("teams", epoch)) }
	var others []string // names are random, and some of them share a bucket with those of the value
	for team := 100; len(others) < 2; team++ {
		if other := fmt.Sprintf("~1:%d", team); bucket(other) != bucket("~1") && bucket(other) != bucket("~1:8") {
			others = append(others, w.epoch("teams", other))
		}
	}
	loader := &lapsed{Loader: w.loader, after: func() {
		w.pg.Exec(t, w.url, `UPDATE team SET name = name WHERE id >= 100`)
		w.end(others...)
	}}
	if v := get(t, w.tiedReader(nil, loader), "teams", "2"); v.Reason != "" {
		t.Errorf("not stored: %s", v.Reason)
	}
}

// renamed is the store, whose HEAD is of another generation when epochs are pinned.
type renamed struct{ fill.Store }

func (r renamed) Pin(ctx context.Context, epochs []string, life time.Duration) (redisstore.Pinned, error) {
	p, err := r.Store.Pin(ctx, epochs, life)
	p.Head.Generation = store.Draw()
	return p, err
}

// TestNamesMoveBeforeEpochsArePinned: what HEAD says of epochs that ended is of the names that it has then.
func TestNamesMoveBeforeEpochsArePinned(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	v := get(t, w.tiedReader(renamed{w.store}, nil), "teams", "2")
	if record, _ := w.record(w.name("teams", "teams:2")); v.Reason != "names_moved" || record.State.Live() {
		t.Errorf("got %+v, the record is %+v", v, record)
	}
}

// again is the store with one id for all epochs that it makes.
type again struct {
	fill.Store
	w *withEpochs
}

func (a again) Pin(ctx context.Context, epochs []string, life time.Duration) (redisstore.Pinned, error) {
	for _, name := range epochs {
		err := a.w.raw.Do(ctx, a.w.raw.B().Set().Key(name).Value(strings.Repeat("a", 32)).Nx().Px(life).Build()).Error()
		if err != nil && !strings.Contains(err.Error(), "nil") {
			return redisstore.Pinned{}, err
		}
	}
	return a.Store.Pin(ctx, epochs, life)
}

// TestEpochsDoNotReturn: two keys are tied to one epoch, which ends; when one of them is filled again, the other one's old
// value must stay what it is. Under an id that was used before it comes back to life.
func TestEpochsDoNotReturn(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	for _, fresh := range []bool{true, false} {
		w.pg.Exec(t, w.url, `UPDATE product SET price = 50 WHERE id = 5`)
		w.end(w.epoch("below", "~0"))
		kept := fill.Store(w.store)
		if !fresh {
			kept = again{kept, w}
		}
		r := w.tiedReader(kept, nil)
		get(t, r, "below", "20")
		get(t, r, "below", "19")
		w.pg.Exec(t, w.url, `UPDATE product SET price = 1 WHERE id = 5`)
		w.end(w.epoch("below", "~0"))
		expect(t, get(t, r, "below", "19"), fill.Miss, `[{"id":1},{"id":5}]`)
		want, status := `[{"id":1},{"id":5}]`, fill.Miss
		if !fresh {
			want, status = `[{"id":1}]`, fill.Hit
		}
		expect(t, get(t, r, "below", "20"), status, want)
	}
}

// TestLostEpochsAreMisses: whatever becomes of an epoch's key, values that are tied to it are misses, the next fill mends it,
// and what was cached is not served again.
func TestLostEpochsAreMisses(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	name := w.epoch("teams", "~1:8")
	for what, break_ := range map[string]func() error{
		"deleted": func() error { return w.raw.Do(t.Context(), w.raw.B().Del().Key(name).Build()).Error() },
		"another id": func() error {
			return w.raw.Do(t.Context(), w.raw.B().Set().Key(name).Value(strings.Repeat("b", 32)).Build()).Error()
		},
		"no id": func() error {
			return w.raw.Do(t.Context(), w.raw.B().Set().Key(name).Value("x=,~").Build()).Error()
		},
		"expired": func() error {
			return w.raw.Do(t.Context(), w.raw.B().Pexpireat().Key(name).MillisecondsTimestamp(1).Build()).Error()
		},
		"another type": func() error {
			return w.raw.DoMulti(t.Context(), w.raw.B().Del().Key(name).Build(), w.raw.B().Hset().Key(name).FieldValue().FieldValue("a", "b").Build())[1].Error()
		},
	} {
		for i := 0; get(t, r, "teams", "2").Status != fill.Hit; i++ {
			if i == 3 {
				t.Fatalf("%s: no hit after %d fills", what, i)
			}
		}
		if err := break_(); err != nil {
			t.Fatal(err)
		}
		// A value of another key, tied to the epoch that is made anew, revives nothing.
		if v := get(t, r, "teams", "1"); v.Status == fill.Hit {
			t.Errorf("%s: a hit", what)
		}
		if v := get(t, r, "teams", "2"); v.Status == fill.Hit {
			t.Errorf("%s: a hit", what)
		}
	}
}

// TestEpochsOutliveValues: an epoch lives longer than each value that is tied to it, whoever made it; and one without end stays so.
func TestEpochsOutliveValues(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	ttl := func(name string) int64 {
		t.Helper()
		ms, err := w.raw.Do(t.Context(), w.raw.B().Pttl().Key(name).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	name := w.epoch("teams", "~1:8")
	r := w.tiedReader(nil, nil)
	get(t, r, "teams", "2")
	made := ttl(name)
	if value := ttl(w.named("teams", "teams:2")); made <= value {
		t.Errorf("the epoch has %d ms, the value %d", made, value)
	}
	if err := w.raw.Do(t.Context(), w.raw.B().Pexpire().Key(name).Milliseconds(5000).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	get(t, r, "teams", "1")
	if got := ttl(name); got < made-5000 {
		t.Errorf("a later value has left the epoch %d ms", got)
	}
	if err := w.raw.Do(t.Context(), w.raw.B().Persist().Key(name).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	w.end(w.epoch("teams", "~1:7"))
	get(t, r, "teams", "1")
	if got := ttl(name); got != -1 {
		t.Errorf("an epoch without end has %d ms", got)
	}
}

// TestRecordThatIsNotTied: a value without epochs under an entry that has them is nobody's, since nothing would end it; nor is one
// that lacks an epoch which every value has.
func TestRecordThatIsNotTied(t *testing.T) {
	t.Parallel()
	w := newTied(t, options{})
	r := w.tiedReader(nil, nil)
	get(t, r, "teams", "2")
	record, _ := w.record(w.named("teams", "teams:2"))
	for _, epochs := range [][]fence.Epoch{nil, record.Epochs[1:], {{Name: "~7", ID: strings.Repeat("c", 32)}}} {
		forged := record
		forged.Epochs, forged.Payload = epochs, []byte(`"forged"`)
		w.put(w.named("teams", "teams:2"), forged.Append(nil))
		expect(t, get(t, r, "teams", "2"), fill.Miss, `[{"id":8,"name":"team 8"}]`)
		expect(t, get(t, r, "teams", "2"), fill.Hit, `[{"id":8,"name":"team 8"}]`)
		w.put(w.named("teams", "teams:2"), forged.Append(nil))
		v, err := r.GetUnder(t.Context(), "teams", texts("2"), nil, &fill.Demand{Bounded: true, MaxStale: time.Hour})
		if err != nil || strings.Contains(string(v.Payload), "forged") {
			t.Errorf("tied to %v, under a bound: %s, %v", epochs, v.Payload, err)
		}
		get(t, r, "teams", strconv.Itoa(2))
	}
}
