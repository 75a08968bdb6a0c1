package pipeline_test

import (
	"fmt"
	"testing"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
)

// TestIntentOfMoreThanKeys: an entry, what reads a table, everything: names move with the commit, those that are meant and no
// others.
func TestIntentOfMoreThanKeys(t *testing.T) {
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
		{`{"v":1,"entry":"items","all":true}`, true, false},
		{`{"v":1,"table":"others"}`, false, true},
		{`{"v":1,"schema":"public","table":"items"}`, true, false},
		{`{"v":1,"schema":"elsewhere","table":"items"}`, false, false},
		{`{"v":1,"entry":"nothing","all":true}`, false, false},
		{`{"v":1,"all":true}`, true, true},
		{`{"v":1,"entry":"items","all":true,"keys":[1]}`, true, false}, // contradicts itself
		{`{"v":1,"table":"items","all":true}`, true, true},             // may mean anything
	}
	for _, step := range steps {
		items, others := r.name("items", 1), r.name("others", 1)
		r.exec(`BEGIN; `+message(true, step.content)+`; ROLLBACK`, message(true, step.content))
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
	if got, want := d.Status().Intents, (pipeline.Intents{Read: 8, Undecodable: 2, Unknown: 2}); got != want {
		t.Errorf("Intents = %+v, want %+v", got, want)
	}
}
