package daemon_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/testkit"
)

// TestObjectivesPassOverRetainedVersions: an objective is about the version that the daemon's file declares, whatever becomes
// of those that it serves besides. Truncating a table that one of them reads takes that one out of the cache, after some
// times; then the log is not delivered any more.
func TestObjectivesPassOverRetainedVersions(t *testing.T) {
	t.Parallel()
	const file = "defaults: {ttl: 1h}\nentries:\n  owner: {key: \"owner:{id}\", query: \"%s\", max_staleness: 3s}\n"
	wide := fmt.Sprintf(file, "SELECT u.name, a.city FROM users u LEFT JOIN addresses a ON a.user_id = u.id WHERE u.id = @id")
	narrow := fmt.Sprintf(file, "SELECT name FROM users WHERE id = @id")
	type version struct {
		Retained  string `json:"retained"`
		Suspended string `json:"suspended"`
	}
	for _, tt := range []struct {
		name           string
		before, after  string
		retainedIsDown bool // the version that reads the truncated table is the retained one
		met            string
	}{
		{"the retained version is out of the cache", wide, narrow, true, "0"},
		{"its own is, whose readers go to the database", narrow, wide, false, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			serve := func(entries string) *running {
				w.rewrite(entries)
				run := w.start()
				w.ready()
				return run
			}
			// Both versions' tables are published from the start: a daemon publishes none for a retained one.
			if err := serve(wide).stop(); err != nil {
				t.Fatal(err)
			}
			if err := serve(tt.before).stop(); err != nil {
				t.Fatal(err)
			}
			serve(tt.after)
			var st struct {
				Entries []version `json:"entries"`
			}
			testkit.Eventually(t, patience, func() error {
				w.pg.Exec(t, w.url, `TRUNCATE addresses`)
				st.Entries = nil
				if err := json.Unmarshal([]byte(w.get("/v1/status").body), &st); err != nil {
					return err
				}
				if len(st.Entries) != 2 {
					return fmt.Errorf("the versions are %+v", st.Entries)
				}
				for _, v := range st.Entries {
					if down := (v.Retained != "") == tt.retainedIsDown; down != (v.Suspended != "") {
						return fmt.Errorf("the versions are %+v", st.Entries)
					}
				}
				return nil
			})
			const bound = "\nfreshet_staleness_bound_seconds{region=\"local\"} "
			w.stopSender()
			a := w.until("/metrics", func(a answer) bool {
				_, text, _ := strings.Cut(a.body, bound)
				var seconds float64
				_, err := fmt.Sscan(text, &seconds)
				return err == nil && seconds > 3
			})
			if want := "\nfreshet_entry_objective_met{entry=\"owner\"} " + tt.met + "\n"; strings.Count(a.body, want) != 1 ||
				strings.Count(a.body, "\nfreshet_entry_objective_met{") != 1 {
				t.Errorf("the metrics lack%sor have more of these:\n%s", want, a.body)
			}
		})
	}
}
