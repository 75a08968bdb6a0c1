package pipeline_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestAddressLeadsToSeveralServers has an address change while a daemon connects, from an old primary that goes on to the one that
// was promoted. Whatever mixture it gets, it does not follow the log of one by the snapshots of the other: changes of the new
// one would be in no stream, and what readers load from it would be stored.
func TestAddressLeadsToSeveralServers(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{})
	r := newRig(t, options{pg: primary})
	standby := pgtest.Standby(t, primary, pgtest.Options{})
	address, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	before, after := address.Host, fmt.Sprintf("127.0.0.1:%d", standby.Port)
	database, _ := r.through()
	d := r.start()
	d.streaming()
	r.cached("items", 1)
	standby.CatchUp(t)
	d.stop()
	standby.Promote(t)
	address.Host = after
	r.url = address.String()
	database.Lead(after)
	// In the order in which a session connects: for what it asks once, the gate, the watch's gate, the stream.
	for i, turns := range [][]string{
		{before, after, after, before},
		{before, after, after, after},
		{after, before, after, after},
		{after, after, before, after},
		{after, after, after, before},
	} {
		said := r.said.count("several servers")
		database.LeadEach(turns...)
		d = r.start()
		r.follows(d)
		if head := r.head(); head.Timeline != 2 {
			t.Errorf("%d: HEAD follows timeline %d, want 2", i, head.Timeline)
		}
		if r.said.count("several servers") == said {
			t.Errorf("%d: nobody said that the address led to several servers", i)
		}
		d.stop()
	}
}
