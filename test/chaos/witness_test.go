package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// witness reads items as the library does, where it can be seen what a value claims to contain, and holds each read
// against the transactions that the writers made.
type witness struct {
	w       *world
	loader  *pgload.Loader
	replica *pgload.Replica
	reader  *fill.Reader

	mu    sync.Mutex
	order map[string]*order // by the name of the record
}

func openWitness(ctx context.Context, w *world) (*witness, error) {
	c, err := config.Load(w.readerFile, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	x := &witness{w: w, order: map[string]*order{}}
	if x.loader, err = pgload.Open(ctx, w.url+"&application_name="+ourName); err != nil {
		return nil, err
	}
	if x.replica, err = pgload.OpenReplica(ctx, c.Database.Replicas[0].Reveal()); err == nil {
		x.reader, err = fill.New(fill.Options{
			Namespace: namespace, Store: w.store, Loader: x.loader, Entries: fill.Entries(c), Replicas: []fill.Replica{x.replica},
		})
	}
	if err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

func (x *witness) close() {
	if x.reader != nil {
		x.reader.Close()
	}
	if x.replica != nil {
		x.replica.Close()
	}
	x.loader.Close()
}

func (x *witness) readOn(ctx context.Context, source *rand.Rand) {
	for ctx.Err() == nil {
		id := someID(source, items)
		began := time.Now()
		v, err := x.reader.Get(ctx, "item", []keytext.Arg{{Text: strconv.FormatInt(id, 10)}}, nil)
		ended := time.Now()
		seen, believed := x.w.applied.before(began)
		if !believed || !x.w.kept.since(began) {
			x.forget() // history may have been lost, in Redis or in the database
		} else if err == nil {
			if wrong := x.judge(id, &v, seen.sa, began, ended); wrong != "" {
				x.w.violation("%s, witnessed as a %v: %s", keyOf("item", id), v.Status, wrong)
			}
		}
		wait(ctx, time.Duration(source.Int64N(int64(4*time.Millisecond))))
	}
}

func (x *witness) judge(id int64, v *fill.Value, vouched mvcc.Snapshot, began, ended time.Time) string {
	_, coverage := v.Stamp()
	hit := v.Status == fill.Hit
	switch {
	case coverage.IsZero() && hit:
		return "it does not say what it contains"
	case coverage.IsZero():
		return "" // nothing that the writers' transactions could be held against
	case coverage.Standby():
		x.w.counts.witnessedReplica.Add(1)
	default:
		x.w.counts.witnessed.Add(1)
	}
	if !hit {
		vouched = mvcc.Snapshot{}
	}
	value := ""
	if v.Found {
		value = string(v.Payload)
	}
	wrong, err := x.w.ledger.holds(id, value, coverage, vouched)
	if err != nil {
		return err.Error()
	}
	if wrong == "" && hit && !coverage.Standby() {
		wrong = x.follows(v.Name, coverage.Snapshot, began, ended)
	}
	return wrong
}

func (x *witness) follows(name string, s mvcc.Snapshot, began, ended time.Time) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.order[name] == nil {
		x.order[name] = &order{}
	}
	return x.order[name].add(s, began, ended)
}

func (x *witness) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.order)
}

// holds says what is wrong with a value that claims to contain what its coverage says. It must be the item as the last of
// the transactions that it claims has left it, or, from a replica, one that may have been replayed besides; and it must
// contain each of those that the store had vouched for before the read began. Of transactions whose outcome nobody knows
// nothing is asked.
func (l *ledger) holds(id int64, value string, claimed fence.Coverage, vouched mvcc.Snapshot) (string, error) {
	version := int64(0)
	if value != "" {
		var err error
		if version, err = versionOf(value); err != nil {
			return "", err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.of(id)
	var last change
	for _, c := range h.changes {
		// What was there before the run has no transaction. Where the commit ended is known only as a position after it.
		covered := c.xid == 0 || claimed.Covers(fence.Stamp{XID: c.xid, End: c.end}) && (c.end != 0 || !claimed.Standby())
		promised := vouched.Sees(c.xid)
		switch {
		case !covered && promised && !claimed.Standby():
			return fmt.Sprintf("it does not contain transaction %d, which the store had vouched for: %v, %v", c.xid, claimed, vouched), nil
		case !covered && version == c.version && !claimed.Standby():
			return fmt.Sprintf("it has version %d of transaction %d, which it does not claim to contain: %v", version, c.xid, claimed), nil
		case (covered || promised) && c.version > last.version:
			last = c
		}
	}
	switch {
	case value != "" && version < last.version:
		return fmt.Sprintf("it has version %d, and is said to contain transaction %d, which made version %d: %v, %v",
			version, last.xid, last.version, claimed, vouched), nil
	case value == "" && last.exists && !h.underWay(last) && (!claimed.Standby() || !h.mayLack(last)):
		return fmt.Sprintf("it is missing, and is said to contain transaction %d, which made version %d: %v, %v",
			last.xid, last.version, claimed, vouched), nil
	}
	return "", nil
}

// order is what was read under one name. A value is stored under a lease that was granted after the one before it was
// stored, and loaded after that; so what is read later contains whatever was read before.
type order struct {
	recent []sighting
	before mvcc.Snapshot // what those that are no longer recent contain together
}

type sighting struct {
	ended    time.Time
	snapshot mvcc.Snapshot
}

// add notes a read, and says what is wrong with it.
func (o *order) add(s mvcc.Snapshot, began, ended time.Time) string {
	const recently = 10 * time.Second // no read takes longer
	kept := o.recent[:0]
	for _, seen := range o.recent {
		if seen.ended.Before(began) && !s.Dominates(seen.snapshot) {
			return fmt.Sprintf("it contains %v, and what was read %v before contained %v", s, began.Sub(seen.ended), seen.snapshot)
		}
		if ended.Sub(seen.ended) > recently {
			o.before = fence.Grow(o.before, seen.snapshot)
		} else {
			kept = append(kept, seen)
		}
	}
	kept = append(kept, sighting{ended, s})
	o.recent = kept
	if !s.Dominates(o.before) {
		return fmt.Sprintf("it contains %v, and what was read long before contained %v", s, o.before)
	}
	return ""
}

func TestWitness(t *testing.T) {
	t.Parallel()
	sees := func(text string) mvcc.Snapshot {
		s, err := mvcc.ParseSnapshot(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	l := newLedger()
	now := time.Now()
	l.items[1] = &history{changes: []change{
		{version: 1, exists: true},
		{version: 2, exists: true, xid: 10, at: now, end: 0xA},
		{version: 4, xid: 12, at: now, end: 0xC},
		{version: 5, exists: true, xid: 14, at: now, end: 0xE},
	}}
	item := func(version int) string {
		if version == 0 {
			return ""
		}
		return fmt.Sprintf(`{"id":1,"v":%d}`, version)
	}
	tests := []struct {
		name               string
		version            int    // 0: missing
		contained, vouched string // contained: a snapshot, or a position that a replica had replayed
		wrong              bool
	}{
		{"from before the run", 1, "10:10:", "5:5:", false},
		{"the last that it contains", 2, "11:11:", "11:11:", false},
		{"while another runs", 2, "12:15:12,14", "11:11:", false},
		{"of a transaction that nobody knows", 3, "12:13:12", "11:11:", false},
		{"deleted", 0, "13:13:", "13:13:", false},
		{"deleted, and there", 2, "13:13:", "11:11:", true},
		{"an old one", 1, "11:11:", "5:5:", true},
		{"one that it does not claim", 5, "13:13:", "5:5:", true},
		{"missing", 0, "15:15:", "5:5:", true},
		{"missing, and was never deleted", 0, "11:11:", "5:5:", true},
		{"without what was vouched for", 2, "11:11:", "13:13:", true},
		{"without what was vouched for, out of order", 1, "10:13:10,12", "12:12:", true},
		{"from a replica, the last that it contains", 2, "0/A", "5:5:", false},
		{"from a replica, and newer", 5, "0/A", "5:5:", false},
		{"from a replica, an old one", 1, "0/A", "5:5:", true},
		{"from a replica, deleted, and there", 2, "0/C", "5:5:", true},
		{"from a replica, missing", 0, "0/E", "5:5:", true},
		{"from a replica, without what was vouched for", 1, "0/9", "11:11:", true},
	}
	for _, tt := range tests {
		claimed := fence.Coverage{}
		if strings.Contains(tt.contained, "/") {
			var err error
			if claimed.Replay, err = mvcc.ParseLSN(tt.contained); err != nil {
				t.Fatal(err)
			}
		} else {
			claimed.Snapshot = sees(tt.contained)
		}
		got, err := l.holds(1, item(tt.version), claimed, sees(tt.vouched))
		if err != nil || (got != "") != tt.wrong {
			t.Errorf("%s: holds() = %q, %v, want something wrong: %t", tt.name, got, err, tt.wrong)
		}
	}

	var o order
	at := func(second int) time.Time { return now.Add(time.Duration(second) * time.Second) }
	for _, step := range []struct {
		snapshot     string
		began, ended int
		wrong        bool
	}{
		{"10:10:", 0, 2, false},
		{"9:9:", 1, 2, false}, // at the same time
		{"9:12:9", 3, 4, true},
		{"10:12:10", 3, 4, false},
		{"12:12:", 5, 6, false},
		{"20:20:", 30, 31, false},
		{"12:12:", 31, 32, false}, // at the same time as the one before
		{"11:19:11", 60, 61, true},
	} {
		if got := o.add(sees(step.snapshot), at(step.began), at(step.ended)); (got != "") != step.wrong {
			t.Errorf("add(%s, %d, %d) = %q, want something wrong: %t", step.snapshot, step.began, step.ended, got, step.wrong)
		}
	}
}
