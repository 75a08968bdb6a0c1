package pipeline_test

import (
	"testing"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/rule"
)

// TestLostHeadIsNoticedWithoutAWrite deletes HEAD by hand while nothing is written: the daemon compares it all the same.
func TestLostHeadIsNoticedWithoutAWrite(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	generation := d.streaming().Generation
	redisDo(t, r.redisURL, "DEL", "f:"+r.namespace+":head")
	d.await("in a new generation", func(st pipeline.Status) bool { return st.Generation != generation && st.Phase == pipeline.Streaming })
}

// TestTakingOverPublishesTheRoster holds that a daemon which goes on with the names that it found publishes them under
// its own term and a revision of its own, so that no roster of the one before can follow.
func TestTakingOverPublishesTheRoster(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	first := r.start()
	first.streaming()
	name, before := r.name("items", 1), storedRoster(t, r)
	first.stop()
	r.start().streaming()
	after, head := storedRoster(t, r), r.head()
	if r.name("items", 1) != name {
		t.Error("names moved although nothing changed")
	}
	if after.Term <= before.Term || after.Term != string(head.Term) {
		t.Errorf("the roster's term went from %s to %s, HEAD's is %s", before.Term, after.Term, head.Term)
	}
	if after.Revision <= before.Revision || after.Revision != head.Revision {
		t.Errorf("the roster's revision went from %d to %d, HEAD's is %d", before.Revision, after.Revision, head.Revision)
	}
	// Not one more than before: after a failover that could be one that readers know by other names.
	if after.Revision < 1e15 {
		t.Errorf("revision %d does not come from a clock", after.Revision)
	}
}

func storedRoster(t *testing.T, r *rig) *rule.Roster {
	t.Helper()
	text, found, err := r.store.Roster(t.Context())
	if err != nil || !found {
		t.Fatalf("roster: %v, %v", found, err)
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		t.Fatal(err)
	}
	return roster
}
