package pipeline_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
)

// emit is the statement that writes an intent for the keys of a table's entry.
func emit(table string, ids ...any) string {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = fmt.Sprint(id)
	}
	return message(true, fmt.Sprintf(`{"v":1,"entry":%q,"keys":[%s]}`, table, strings.Join(keys, ",")))
}

func message(transactional bool, content string) string {
	return fmt.Sprintf(`SELECT pg_logical_emit_message(%t, 'freshet', convert_to('%s', 'UTF8'))`, transactional, content)
}

// TestIntentInvalidates: what a transaction says it affects is invalidated with its commit, and nothing else is.
func TestIntentInvalidates(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.tables = append(r.tables, "others")
	r.exec(`CREATE TABLE others (id int PRIMARY KEY, v text)`)
	d := r.start()
	d.streaming()
	one, two, three, other := r.cached("items", 1), r.cached("items", 2), r.cached("items", 3), r.cached("others", 1)
	r.exec(emit("items", 1))
	r.gone(one)
	r.exec(`BEGIN; ` + emit("items", `"002"`, 3) + `; ` + emit("others", 1) + `; COMMIT`)
	r.gone(two)
	r.gone(three)
	r.gone(other)

	one, two = r.cached("items", 1), r.cached("items", 2)
	r.exec(
		`BEGIN; `+emit("items", 1)+`; ROLLBACK`,
		`BEGIN; SAVEPOINT s; `+emit("items", 1)+`; ROLLBACK TO s; `+emit("items", 2)+`; COMMIT`,
		message(false, `{"v":1,"entry":"items","keys":[1]}`),
		`BEGIN; `+message(false, `{"v":1,"entry":"items","keys":[1]}`)+`; ROLLBACK`,
		`SELECT pg_logical_emit_message(true, 'freshet2', '{"v":1,"entry":"items","keys":[1]}')`,
		emit("items"), // no keys
		message(true, `{"v":1,"entry":"items","keys":null}`),
	)
	r.gone(two)
	r.applied()
	if !r.present(one) {
		t.Error("a message that is none, or was rolled back, has invalidated")
	}
	if st := d.Status(); st.Intents != (pipeline.Intents{Read: 6}) || d.Stats().Moves.Load() != 0 {
		t.Errorf("Intents = %+v, %d moves", st.Intents, d.Stats().Moves.Load())
	}
}

// TestManyIntents: one transaction names more keys than the daemon holds at a time.
func TestManyIntents(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	first, last := r.cached("items", 1), r.cached("items", 99)
	const keys = 40_000
	r.exec(`BEGIN; SELECT pg_logical_emit_message(true, 'freshet', convert_to(json_build_object('v', 1, 'entry', 'items', 'keys',
			json_agg(g))::text, 'UTF8')) FROM generate_series(1, ` + strconv.Itoa(keys) + `) g WHERE g <> 99;
		SELECT pg_logical_emit_message(true, 'freshet', convert_to(json_build_object('v', 1, 'entry', 'items', 'keys',
			json_build_array(json_build_array(g)))::text, 'UTF8')) FROM generate_series(99, 120) g; COMMIT`)
	r.gone(first)
	r.gone(last)
	testkit.Eventually(t, patience, func() error {
		if n := d.Stats().Keys.Load(); n < keys {
			return fmt.Errorf("%d keys were deleted", n)
		}
		return nil
	})
}

// TestIntentThatCannotBeRead: what it may have meant is not served any more.
func TestIntentThatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.tables = append(r.tables, "others")
	r.exec(`CREATE TABLE others (id int PRIMARY KEY, v text)`)
	d := r.start()
	d.streaming()
	steps := []struct {
		content       string
		items, others bool // whose names move
	}{
		{`{"v":1,"entry":"items","keys":["x"]}`, true, false},
		{`{"v":1,"entry":"items","keys":[[1,2]]}`, true, false},
		{`{"v":1,"entry":"items","keys":{}}`, true, false},
		{`{"v":2,"entry":"items"}`, true, true},
		{`not JSON`, true, true},
		{`{"v":1,"entry":"nothing","keys":[1]}`, false, false},
		{`{"v":1,"entry":"nothing","keys":1}`, false, false},
	}
	for _, step := range steps {
		items, others := r.name("items", 1), r.name("others", 1)
		r.exec(message(true, step.content))
		testkit.Eventually(t, patience, func() error {
			if moved := [2]bool{r.name("items", 1) != items, r.name("others", 1) != others}; moved != [2]bool{step.items, step.others} {
				return fmt.Errorf("%s moves items, others: %v", step.content, moved)
			}
			return nil
		})
		r.applied()
		if moved := [2]bool{r.name("items", 1) != items, r.name("others", 1) != others}; moved != [2]bool{step.items, step.others} {
			t.Errorf("%s moves items, others: %v", step.content, moved)
		}
	}
	if got, want := d.Status().Intents, (pipeline.Intents{Read: 7, Undecodable: 4, Unknown: 2}); got != want {
		t.Errorf("Intents = %+v, want %+v", got, want)
	}
}

// TestIntentWhileTheDaemonIsAway: it is in the log, and acts when the daemon is back.
func TestIntentWhileTheDaemonIsAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	name, kept := r.cached("items", 1), r.cached("items", 2)
	d.stop()
	r.exec(emit("items", 1))
	d = r.start()
	d.streaming()
	r.gone(name)
	if !r.present(kept) {
		t.Error("a key that nobody named is gone")
	}
}
