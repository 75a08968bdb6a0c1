package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
	"github.com/redis/rueidis"
)

// tagged is a database of members of teams, and a store with entries whose values differ in how many epochs they are tied to. No
// daemon follows: what one does to the store is measured by itself.
type tagged struct {
	*subject

	pg     *pgload.Loader
	reader *fill.Reader
	daemon *redisstore.Conn
	head   fence.Head
	roster *rule.Roster
}

// epochCounts are those that values are tied to: none, a rule's own, and that with tags.
func epochCounts() []int { return []int{0, 1, 10, 50} }

func taggedEntry(epochs int) string { return "epochs" + strconv.Itoa(epochs) }

func newTagged(ctx context.Context, b *bench) (t *tagged, err error) {
	t = &tagged{}
	if t.subject, err = newSubject(ctx, b, "tags", 1); err != nil {
		return nil, err
	}
	if err := b.servers.exec(ctx, t.url, `CREATE TABLE team (id int4 PRIMARY KEY, name text)`,
		`CREATE TABLE member (epochs int4, user_id int4, team_id int4, PRIMARY KEY (epochs, user_id, team_id))`,
		fmt.Sprintf(`INSERT INTO team SELECT i, 'team ' || i FROM generate_series(1, %d) i`, hitKeys*50),
		fmt.Sprintf(`INSERT INTO member SELECT e, u, u * 50 - i FROM unnest(ARRAY[10, 50]) e, generate_series(1, %d) u, generate_series(1, e - 1) i`, hitKeys),
		`VACUUM ANALYZE`); err != nil {
		return nil, err
	}
	if t.pg, err = pgload.Open(ctx, t.url); err != nil {
		return nil, err
	}
	if t.daemon, err = t.store.Connect(ctx); err != nil {
		return nil, err
	}
	entries := map[string]fill.Entry{}
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	for _, n := range epochCounts() {
		name := taggedEntry(n)
		d := rule.Declared{Name: name, Key: name + ":{id}", Query: "SELECT 1 AS one WHERE 1 = @id", Result: rule.Many}
		e := &rule.Entry{
			Name: name, Definition: d.Digest(), Key: d.Key, Params: []rule.Param{{Name: "id", Type: keytext.Int4}}, Result: d.Result,
			SQL: "SELECT id, name FROM public.team WHERE id BETWEEN $1 * 50 - 9 AND $1 * 50",
		}
		switch n {
		case 0:
			e.Rules = []rule.Rule{{Schema: "public", Table: "team", Bind: []string{"id"}}}
		case 1:
			e.Rules = []rule.Rule{{Schema: "public", Table: "team", Class: rule.Broad, Bind: []string{""}}}
		default:
			e.Rules = []rule.Rule{{Schema: "public", Table: "team", Class: rule.Tag, Bind: []string{""}, Tag: &rule.TagQuery{
				SQL: fmt.Sprintf("SELECT team_id FROM public.member WHERE epochs = %d AND user_id = $1", n), From: []string{"id"}, Types: []keytext.Type{keytext.Int4}, Rank: 1,
			}}}
		}
		e.Version, e.Activation = e.Hash(), store.Draw()
		t.roster.Entries[name] = e
		entries[name] = fill.Entry{Declared: d, TTL: time.Hour, LoadTimeout: 30 * time.Second}
	}
	if err := t.daemon.Move(ctx, t.expected(), t.roster.Text(), t.roster.Revision, "p"); err != nil {
		return nil, err
	}
	t.reader, err = fill.New(fill.Options{Namespace: t.namespace, Store: t.store, Loader: t.pg, Entries: entries})
	return t, err
}

// begin writes HEAD, as a daemon does that begins a generation.
func (t *tagged) begin(ctx context.Context) error {
	snapshot, server, err := t.pg.Visible(ctx)
	if err != nil {
		return err
	}
	_, end, err := t.pg.Position(ctx)
	if err != nil {
		return err
	}
	t.head = fence.Head{
		Generation: store.Draw(), Term: fence.NewTerm(1, 1), System: server.System, Timeline: server.Timeline, Wi: end, Wc: end, Si: snapshot,
	}
	t.roster = &rule.Roster{
		Format: rule.RosterFormat, Generation: t.head.Generation, Term: string(t.head.Term), Revision: 1, Entries: map[string]*rule.Entry{},
	}
	if _, _, err := t.daemon.Claim(ctx, t.head.Term); err != nil {
		return err
	}
	return t.daemon.NewGeneration(ctx, t.head)
}

func (t *tagged) expected() redisstore.Expected {
	return redisstore.Expected{Generation: t.head.Generation, Term: t.head.Term, Wc: t.head.Wc}
}

func (t *tagged) close() {
	t.reader.Close()
	t.daemon.Close()
	t.pg.Close()
	t.subject.close()
}

// tags measures what it costs to tie values to epochs: a hit, against a plain GET of a record of the same value, and a fill; and what
// it saves: taking many values out of use by one epoch, against a set of their names that are removed one by one.
func tags(ctx context.Context, b *bench) error {
	t, err := newTagged(ctx, b)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.hits(ctx); err != nil {
		return err
	}
	if err := t.fills(ctx); err != nil {
		return err
	}
	return t.dependents(ctx)
}

func (t *tagged) get(ctx context.Context, epochs, id int) (fill.Value, error) {
	return t.reader.Get(ctx, taggedEntry(epochs), []keytext.Arg{{Text: strconv.Itoa(id)}}, nil)
}

func (t *tagged) hits(ctx context.Context) error {
	names := make([]string, hitKeys+1)
	for id := 1; id <= hitKeys; id++ {
		for _, n := range epochCounts() {
			v, err := t.get(ctx, n, id)
			if err != nil {
				return err
			}
			if n == 0 {
				names[id] = v.Name
			}
		}
	}
	before := t.reader.Stats()
	for _, goroutines := range []int{1, 16} {
		readers := []*reader{{name: "plain GET", read: func(ctx context.Context, id int) error {
			_, err := t.store.Read(ctx, names[id])
			return err
		}}}
		for _, n := range epochCounts() {
			readers = append(readers, &reader{name: taggedEntry(n), read: func(ctx context.Context, id int) error {
				_, err := t.get(ctx, n, id)
				return err
			}})
		}
		if err := t.b.race(ctx, "cached", readers, goroutines); err != nil {
			return err
		}
		plain := median(readers[0].took)
		for i, n := range epochCounts() {
			took := median(readers[1+i].took)
			t.b.printf("  %2d goroutines: a hit with %2d epochs %.1f µs, a plain GET %.1f µs\n", goroutines, n, took/1000, plain/1000)
			t.b.report(fmt.Sprintf("tags/hit/%d/%d", n, goroutines), took/plain, "times a plain GET")
		}
	}
	if after := t.reader.Stats(); after.Loads != before.Loads {
		return fmt.Errorf("not all of these were hits: %+v", after)
	}
	return nil
}

func (t *tagged) fills(ctx context.Context) error {
	readers := make([]*reader, 0, len(epochCounts()))
	for _, n := range epochCounts() {
		prefix := rule.KeyPrefix(t.namespace, t.head.Generation, t.roster.Entries[taggedEntry(n)]) + taggedEntry(n) + ":"
		readers = append(readers, &reader{name: taggedEntry(n), read: func(ctx context.Context, id int) error {
			err := t.client.Do(ctx, t.client.B().Unlink().Key(prefix+strconv.Itoa(id)).Build()).Error()
			if err != nil {
				return err
			}
			v, err := t.get(ctx, n, id)
			if err == nil && (v.Status != fill.Miss || v.Reason != "") {
				err = fmt.Errorf("%v %s", v.Status, v.Reason)
			}
			return err
		}})
	}
	if err := t.b.race(ctx, "missed", readers, 1); err != nil {
		return err
	}
	plain := median(readers[0].took)
	for i, n := range epochCounts() {
		took := median(readers[i].took)
		t.b.printf("  a miss that is filled with %2d epochs: %.0f µs\n", n, took/1000)
		t.b.report(fmt.Sprintf("tags/fill/%d", n), took/plain, "times one without epochs")
	}
	return nil
}

// dependents takes many values out of use, by one epoch and by a set of their names.
func (t *tagged) dependents(ctx context.Context) error {
	const together = 500
	n := t.b.sizes.dependents
	prefix := rule.KeyPrefix(t.namespace, t.head.Generation, t.roster.Entries[taggedEntry(1)]) + "dependent:"
	epoch := prefix[:len(prefix)-len(":dependent:")] + "~0"
	set := t.namespace + ":members"
	names := make([]string, n)
	for i := range names {
		names[i] = prefix + strconv.Itoa(i+1)
	}
	var byEpoch, bySet []time.Duration
	for range t.b.sizes.rounds {
		if _, err := t.store.Pin(ctx, []string{epoch}, time.Hour); err != nil {
			return err
		}
		if err := t.cache(ctx, prefix, n); err != nil {
			return err
		}
		for some := range slices.Chunk(names, together) {
			if err := t.client.Do(ctx, t.client.B().Sadd().Key(set).Member(some...).Build()).Error(); err != nil {
				return err
			}
		}
		began := time.Now()
		_, err := t.daemon.Apply(ctx, redisstore.Batch{
			Expect: t.expected(), Wi: t.head.Wc, Si: mvcc.Snapshot{Xmin: 3, Xmax: 3}, Epochs: []string{epoch}, Advance: t.head.Wc,
		})
		if err != nil {
			return err
		}
		byEpoch = append(byEpoch, time.Since(began))

		began = time.Now()
		members, err := t.client.Do(ctx, t.client.B().Smembers().Key(set).Build()).AsStrSlice()
		if err != nil {
			return err
		}
		commands := make([]rueidis.Completed, 0, n/together+2)
		for some := range slices.Chunk(members, together) {
			commands = append(commands, t.client.B().Unlink().Key(some...).Build())
		}
		for _, reply := range t.client.DoMulti(ctx, append(commands, t.client.B().Unlink().Key(set).Build())...) {
			if err := reply.Error(); err != nil {
				return err
			}
		}
		bySet = append(bySet, time.Since(began))
	}
	t.b.printf("  %d dependents: one epoch %v, with INTENT and ADVANCE; a set of their names %v\n", n,
		median(byEpoch).Round(time.Microsecond), median(bySet).Round(time.Microsecond))
	t.b.report("tags/dependents", float64(median(bySet))/float64(median(byEpoch)), "times as fast as a set")
	return nil
}
