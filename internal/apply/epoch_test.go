package apply

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// grouped has the rig's entry tied to epochs as well, one for each row.
func (r *rig) grouped() {
	r.entry.Rules = append(r.entry.Rules, rule.Rule{Schema: "public", Table: "items", Class: rule.Group, Bind: []string{"id"}})
	r.router = route.New([]*rule.Entry{r.entry})
}

func (r *rig) epochs(ids ...string) (names []string) {
	for _, id := range ids {
		names = r.opts.Names.appendEpochs(names, 0, []byte("~1:"+id))
	}
	return names
}

// pinned makes the epochs of rows, as a fill does.
func (r *rig) pinned(ids ...string) redisstore.Pinned {
	r.t.Helper()
	p, err := r.store.Pin(r.t.Context(), r.epochs(ids...), time.Minute)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// there are those of the rows whose epochs are there.
func (r *rig) there(ids ...string) (there []string) {
	r.t.Helper()
	held, err := r.store.Epochs(r.t.Context(), r.epochs(ids...))
	if err != nil {
		r.t.Fatal(err)
	}
	for i, id := range held {
		if id != "" {
			there = append(there, ids[i])
		}
	}
	return there
}

// TestEpochsEndWithTheirTransactions: an epoch is not ended before its transaction is visible, and then HEAD says so; of a large
// part all of them are ended whenever one more is.
func TestEpochsEndWithTheirTransactions(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Shared(t), 0)
	r.grouped()
	r.settled()
	r.pinned("1", "2", "3")
	hangs, commit := r.open()
	if _, err := r.deliver(t.Context(), hangs, "1"); err != nil {
		t.Fatal(err)
	}
	visible := r.committed()
	r.part(visible, "2")
	r.fences()
	if diff := cmp.Diff([]string{"1", "2", "3"}, r.there("1", "2", "3")); diff != "" {
		t.Errorf("fenced early (-want +got):\n%s", diff)
	}
	r.steps()
	if diff := cmp.Diff([]string{"1", "3"}, r.there("1", "2", "3")); diff != "" {
		t.Errorf("with one visible (-want +got):\n%s", diff)
	}
	if n := r.opts.Stats.Ended.Load(); n != 1 || r.opts.Stats.Epochs.Load() != 1 {
		t.Errorf("%d of %d epochs ended", n, r.opts.Stats.Epochs.Load())
	}
	p := r.pinned("1", "2")
	two, one := fence.BucketOf(r.epochs("2")[0]), fence.BucketOf(r.epochs("1")[0])
	if ended := p.Head.Ended[two]; ended.IsZero() || !ended.Sees(visible) || !p.Head.Ended[one].IsZero() {
		t.Errorf("HEAD says %v of the epoch that was ended, and %v of the other", ended, p.Head.Ended[one])
	}
	commit()
	r.steps()
	if diff := cmp.Diff([]string{"2", "3"}, r.there("1", "2", "3")); diff != "" {
		t.Errorf("with both visible (-want +got):\n%s", diff)
	}

	many := make([]string, 2*smallKeys)
	for i := range many {
		many[i] = strconv.Itoa(i)
	}
	r.pinned("1", "2", "3")
	hangs, commit = r.open()
	if _, err := r.deliver(t.Context(), hangs, "1"); err != nil {
		t.Fatal(err)
	}
	r.part(r.committed(), many[4:]...)
	r.steps()
	r.pinned("1", "2", "3")
	commit()
	r.steps()
	if diff := cmp.Diff([]string{"2", "3"}, r.there("1", "2", "3")); diff != "" {
		t.Errorf("of a large part (-want +got):\n%s", diff)
	}
}

// TestEpochsAreInEveryLane: a value depends on the epochs of its own lane, so all of them are ended.
func TestEpochsAreInEveryLane(t *testing.T) {
	t.Parallel()
	entry := &rule.Entry{Name: "e", Version: "v", Activation: "a"}
	n := NewNames("shop", &rule.Roster{Generation: "g"}, []*rule.Entry{entry})
	if got := n.appendEpochs(nil, 0, []byte("~2:7")); !slices.Equal(got, []string{"f:shop:g:e.v.a~2:7"}) {
		t.Errorf("on one server %q", got)
	}
	n.Lanes(slices.Repeat([]string{"own"}, fence.Lanes))
	got := n.appendEpochs(nil, 0, []byte("~2:7"))
	if len(got) != fence.Lanes {
		t.Fatalf("%d names", len(got))
	}
	for i, name := range got {
		if lane, ok := fence.LaneIn("shop", name); !ok || lane != i || !strings.HasSuffix(name, "}:own:e.v.a~2:7") {
			t.Errorf("in lane %d %q", i, name)
		}
	}
	entry.Suspended = "it is"
	n.spell()
	if got := n.appendEpochs(nil, 0, []byte("~2:7")); len(got) != 0 {
		t.Errorf("of an entry without a live name %q", got)
	}
}
