package fill_test

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
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

// steps is the real store; it counts what is asked of it for many keys, and for one, and has the test come between the steps.
type steps struct {
	*redisstore.Store

	reads, leases, pins, fills, singles atomic.Int64

	beforeLease, beforeFill func()
}

func (s *steps) ReadMany(ctx context.Context, all []redisstore.Reading, head bool) []redisstore.Found {
	s.reads.Add(1)
	return s.Store.ReadMany(ctx, all, head)
}

func (s *steps) LeaseMany(ctx context.Context, all []redisstore.Leasing) []redisstore.Leased {
	s.leases.Add(1)
	if s.beforeLease != nil {
		s.beforeLease()
	}
	return s.Store.LeaseMany(ctx, all)
}

func (s *steps) PinMany(ctx context.Context, all [][]string, life time.Duration) []redisstore.PinnedMany {
	s.pins.Add(1)
	return s.Store.PinMany(ctx, all, life)
}

func (s *steps) FillMany(ctx context.Context, all []redisstore.Filling) []redisstore.Filled {
	s.fills.Add(1)
	if s.beforeFill != nil {
		s.beforeFill()
	}
	return s.Store.FillMany(ctx, all)
}

func (s *steps) Read(ctx context.Context, name string) ([]byte, error) {
	s.singles.Add(1)
	return s.Store.Read(ctx, name)
}

func (s *steps) ReadUnder(ctx context.Context, name string, epochs []string, under *store.Under) (redisstore.Tied, error) {
	s.singles.Add(1)
	return s.Store.ReadUnder(ctx, name, epochs, under)
}

func (s *steps) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	s.singles.Add(1)
	return s.Store.Lease(ctx, name, token, lasts)
}

func (s *steps) counts() [5]int64 {
	return [5]int64{s.reads.Load(), s.leases.Load(), s.pins.Load(), s.fills.Load(), s.singles.Load()}
}

// other is the token of another process.
const other = fence.Token("0123456789abcdef0123456789abcdef")

// statements is the real database; it counts the loads of many keys, and of one.
type statements struct {
	*pgload.Loader

	many, single atomic.Int64
	sent         atomic.Int64
	before       func(keys [][]keytext.Arg)
}

func (s *statements) LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) pgload.Many {
	s.many.Add(1)
	if s.before != nil {
		s.before(keys)
	}
	m := s.Loader.LoadMany(ctx, q, keys)
	s.sent.Add(int64(m.Statements))
	return m
}

func (s *statements) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	s.single.Add(1)
	return s.Loader.Load(ctx, sql, result, args)
}

// batches gives the entries of the roster the form for many keys.
func (w *world) batches() {
	w.t.Helper()
	roster := w.newRoster(w.roster.Revision + 1)
	maps.Copy(roster.Entries, w.roster.Entries)
	for _, e := range roster.Entries {
		inBatch(e)
	}
	w.move(roster)
}

func inBatch(e *rule.Entry) {
	if e.SQL == "" {
		return
	}
	columns := func(sql string) string {
		for i := range e.Params {
			sql = strings.ReplaceAll(sql, "$"+strconv.Itoa(i+1), rule.BatchColumn(i+1))
		}
		return sql
	}
	e.Batch = &rule.Batch{SQL: columns(e.SQL)}
	for _, p := range e.Params {
		e.Batch.Types = append(e.Batch.Types, string(p.Type))
	}
	for i := range e.Rules {
		if tag := e.Rules[i].Tag; tag != nil {
			e.Batch.Tags = append(e.Batch.Tags, columns(tag.SQL))
		}
	}
}

func numbered(ids ...int) (keys [][]keytext.Arg) {
	for _, id := range ids {
		keys = append(keys, arg(strconv.Itoa(id)))
	}
	return keys
}

func upTo(n int) (ids []int) {
	for i := range n {
		ids = append(ids, i+1)
	}
	return ids
}

// readMany reads products and checks what comes: the price is ten times the id unless it says otherwise, and above 100 there is
// none. It returns how many have which status.
func readMany(t *testing.T, r *fill.Reader, d *fill.Demand, ids []int, prices map[int]int) map[string]int {
	t.Helper()
	if d == nil {
		d = &fill.Demand{}
	}
	statuses := map[string]int{}
	for i, a := range r.GetMany(t.Context(), "product", numbered(ids...), d) {
		want := ""
		if id := ids[i]; id <= 100 {
			p, other := prices[id]
			if !other {
				p = 10 * id
			}
			want = price(id, p)
		}
		if a.Err != nil || string(a.Value.Payload) != want || a.Value.Found != (want != "") {
			t.Errorf("product %d: %s, %v, want %s", ids[i], a.Value.Payload, a.Err, want)
		}
		statuses[a.Value.Status.String()]++
	}
	return statuses
}

// number is a key that is made for whatever type its parameter has.
type number int

func (n number) Args([]rule.Param) ([]keytext.Arg, error) { return arg(strconv.Itoa(int(n))), nil }

func (w *world) named(entry, key string) string {
	return rule.KeyPrefix(w.namespace, w.head.Generation, w.roster.Entries[entry]) + key
}
