package verify_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/verify"
)

// TestEntryThatOnlyOtherFilesDeclare: the daemon's file has lost an entry, which it serves on for applications that have it.
// Its values are verified like all others, and --entry finds it.
func TestEntryThatOnlyOtherFilesDeclare(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items)
	r.fill("item", "1")
	r.fill("group", "1")
	r.stop()
	r.declare(r.config.Namespace, `
  item:
    key: item:{id}
    query: SELECT id, v FROM items WHERE id = @id
`)
	r.serve()
	testkit.Eventually(t, patience, func() error {
		roster, err := r.roster()
		if err == nil && (roster.Entries["group"] != nil || len(roster.Retained) != 1 || roster.Retained[0].Name != "group") {
			err = fmt.Errorf("the roster has the entries %v and the retained versions %v", roster.Entries, roster.Retained)
		}
		return err
	})
	name := r.fill("group", "1")
	old := r.record(name)
	only := func(entry string) func(*verify.Options) {
		return func(o *verify.Options) { o.Entries = []string{entry} }
	}
	total(t, r.verify(only("group")), verify.Counts{Checked: 1, Fresh: 1})
	r.exec("UPDATE items SET v = 'new' WHERE id = 1")
	r.quiet()
	total(t, r.verify(only("group")), verify.Counts{}) // it is removed, as under the daemon that declared it
	r.plant(name, old)
	report := r.verify(only("group"))
	total(t, report, verify.Counts{Checked: 1, Violations: 1})
	if len(report.Findings) != 1 || report.Findings[0].Entry != "group" || report.Findings[0].Key != name {
		t.Errorf("the findings are %+v", report.Findings)
	}
	r.fill("item", "1")
	total(t, r.verify(only("item")), verify.Counts{Checked: 1, Fresh: 1})
	total(t, r.verify(nil), verify.Counts{Checked: 2, Fresh: 1, Violations: 1})
	if _, err := r.tryVerify(only("groups")); !errors.Is(err, verify.ErrNoEntry) {
		t.Errorf("an entry that there is not: %v", err)
	}
}

// TestEntryThatCodeLoads has no query to compare with, unless one is given: then what the code wrote is compared with that
// as JSON, and judged as ever.
func TestEntryThatCodeLoads(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items+`
  size:
    key: size:{g}:{nothing}
    depends_on: [{table: items, key: "{g}:{v}"}]
  names:
    key: names:{g}
    result: many
    depends_on: [{table: items, key: "{g}"}]
`)
	loaded := 0
	load := func(ctx context.Context, q pgload.Querier) (payload []byte, found bool, err error) {
		var n int
		err = q.QueryRow(ctx, "SELECT count(*) FROM items WHERE g = 1").Scan(&n)
		loaded++
		return fmt.Appendf(nil, `{"at": %d, "n": %d.0}`, loaded, n), n > 0, err
	}
	list := func(ctx context.Context, q pgload.Querier) (payload []byte, found bool, err error) {
		err = q.QueryRow(ctx, "SELECT json_agg(json_build_object('v', v) ORDER BY id DESC)::text FROM items WHERE g = 1").Scan(&payload)
		return payload, true, err
	}
	name := r.fillBy("size", load, "1", "x")
	r.fillBy("names", list, "1")
	old := r.record(name)
	r.fill("item", "1")
	with := func(entry string, q verify.Query) func(*verify.Options) {
		return func(o *verify.Options) {
			o.Entries, o.Queries = []string{entry}, map[string]verify.Query{entry: q}
		}
	}
	sizes := with("size", verify.Query{SQL: "SELECT count(*) AS n FROM items WHERE g = @g HAVING count(*) > 0", Ignore: []string{"at"}})
	total(t, r.verify(nil), verify.Counts{Checked: 1, Fresh: 1, Unverifiable: 2})
	total(t, r.verify(sizes), verify.Counts{Checked: 1, Fresh: 1})
	total(t, r.verify(with("names", verify.Query{SQL: "SELECT v FROM items WHERE g = @g"})), verify.Counts{Checked: 1, Fresh: 1})
	total(t, r.verify(with("names", verify.Query{SQL: "SELECT v FROM items WHERE g = @g ORDER BY id"})), verify.Counts{Checked: 1, Reordered: 1})

	r.exec("DELETE FROM items WHERE id = 6")
	r.quiet()
	r.plant(name, old)
	report := r.verify(sizes)
	total(t, report, verify.Counts{Checked: 1, Violations: 1})
	if report.Causes["not_removed"] != 1 {
		t.Errorf("the causes are %v", report.Causes)
	}
	r.plant(name, fence.Record{State: fence.Live, Payload: []byte("no JSON"), Coverage: old.Coverage})
	total(t, r.verify(sizes), verify.Counts{Checked: 1, Violations: 1})
	r.exec("DELETE FROM items WHERE g = 1")
	r.quiet()
	r.plant(name, old)
	total(t, r.verify(sizes), verify.Counts{Checked: 1, Violations: 1})
	r.plant(name, fence.Record{State: fence.Negative, Coverage: old.Coverage})
	total(t, r.verify(sizes), verify.Counts{Checked: 1, Fresh: 1})

	for _, change := range []func(*verify.Options){
		with("item", verify.Query{SQL: "SELECT 1"}), // it has a query
		with("size", verify.Query{SQL: "SELECT count(*) FROM item WHERE g = @g"}),
		with("size", verify.Query{SQL: "SELECT count(*) FROM items WHERE g = @group"}),
	} {
		if _, err := r.tryVerify(change); !errors.Is(err, verify.ErrQuery) {
			t.Errorf("a query that cannot be used: %v", err)
		}
	}
}

// TestEntryThatDependsOnTime: its values were true when they were loaded, and a load now yields others.
func TestEntryThatDependsOnTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), itemTables(), items+`
  seen:
    key: seen:{id}
    query: SELECT id, now() AS at FROM items WHERE id = @id
    depends_on_time: {max_age: 1m}
`)
	r.fill("seen", "1")
	total(t, r.verify(nil), verify.Counts{Unverifiable: 1})
}
