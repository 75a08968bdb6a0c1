package pipeline_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// setUpNoticed is how long it takes until a connection that hangs while a daemon sets its session up is noticed: what
// docs/operations.md says, and half of that for a machine that is busy.
const setUpNoticed = 60 * time.Second

// through has the rig's daemons reach both servers through proxies.
func (r *rig) through() (database, redis *faultproxy.Proxy) {
	r.t.Helper()
	proxied := func(address string) (*faultproxy.Proxy, string) {
		u, err := url.Parse(address)
		if err != nil {
			r.t.Fatal(err)
		}
		p := faultproxy.Start(r.t, u.Host)
		u.Host = p.Addr
		return p, u.String()
	}
	var address string
	database, r.daemonURL = proxied(r.url)
	redis, address = proxied(r.redisURL)
	var err error
	if r.daemons, err = redisstore.Open(r.t.Context(), redisstore.Options{URL: address, Namespace: r.namespace}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.daemons.Close)
	return database, redis
}

// follows holds that a change removes what is cached.
func (r *rig) follows(d *daemon) {
	r.t.Helper()
	d.streaming()
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	r.gone(name)
}

// TestHalfOpenDuringSetUp has the network carry nothing any more at many points of a session's set-up, once where everything
// is new and once where the log is taken up again: each attempt ends by itself, and the next one goes through.
func TestHalfOpenDuringSetUp(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("again=%t", again), func(t *testing.T) {
			t.Parallel()
			// Shares of the answers that a set-up takes; all at the same time, since each takes long.
			database, redis := []float64{0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9}, []float64{0, 0.3, 0.8}
			pg := pgtest.Start(t, pgtest.Options{}) // what hangs may hold a transaction, for which others' slots have to wait
			rigs := make([]*rig, 1+len(database)+len(redis))
			for i := range rigs {
				rigs[i] = newRig(t, options{pg: pg})
			}
			if again {
				runs := make([]*daemon, len(rigs))
				for i, r := range rigs {
					runs[i] = r.start()
				}
				for _, d := range runs {
					d.streaming()
					d.stop()
				}
			}
			var answers [2]int
			first, second := rigs[0].through()
			d := rigs[0].start()
			d.await("set up", func(st pipeline.Status) bool {
				return st.Phase == pipeline.CatchingUp || st.Phase == pipeline.Streaming
			})
			answers[0], answers[1] = first.Passed(), second.Passed()
			d.stop()
			t.Logf("a set-up takes %d answers of the database, and %d of redis", answers[0], answers[1])
			type attempt struct {
				name  string
				proxy *faultproxy.Proxy
				*daemon
			}
			var all []attempt
			for which, shares := range [][]float64{database, redis} {
				for _, share := range shares {
					after := int(share * float64(answers[which]))
					r := rigs[1+len(all)]
					var proxies [2]*faultproxy.Proxy
					proxies[0], proxies[1] = r.through()
					proxies[which].HoldAfter(after)
					name := fmt.Sprintf("%s after %d answers", []string{"postgres", "redis"}[which], after)
					all = append(all, attempt{name, proxies[which], r.start()})
				}
			}
			began := time.Now()
			for _, a := range all {
				testkit.Eventually(t, setUpNoticed, func() error {
					if st := a.Status(); st.Reconnects == 0 {
						return fmt.Errorf("%s: no attempt has ended: %+v", a.name, st)
					}
					return nil
				})
				t.Logf("%s: ended within %v: %s", a.name, time.Since(began).Round(time.Second), a.Status().Problem)
			}
			for _, a := range all {
				a.proxy.Heal()
			}
			for _, a := range all {
				a.r.follows(a.daemon)
			}
		})
	}
}

// TestSlotThatWaitsIsAttended: to make a slot takes as long as transactions are open, and a daemon waits for it, unless its
// connection stops carrying anything meanwhile.
func TestSlotThatWaitsIsAttended(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		lost func(p *faultproxy.Proxy) // nil: nothing is
	}{
		{"nothing is lost", nil},
		{"one connection", func(p *faultproxy.Proxy) { p.HoldOne(1, faultproxy.ToClient) }},
		{"all", func(p *faultproxy.Proxy) { p.Hold(faultproxy.Both) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{pg: pgtest.Start(t, pgtest.Options{})}) // slots wait for the transactions of a whole server
			database, _ := r.through()
			writer := r.connect()
			defer func() { _ = writer.Close(context.Background()) }()
			tx, err := writer.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `UPDATE items SET v = 'open' WHERE id = 2`); err != nil {
				t.Fatal(err)
			}
			d := r.start()
			look := r.connect()
			defer func() { _ = look.Close(context.Background()) }()
			testkit.Eventually(t, patience, func() error {
				var waits bool
				err := look.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
					WHERE state = 'active' AND wait_event_type = 'Lock' AND query LIKE '%pg_create_logical_replication_slot%')`).Scan(&waits)
				if err == nil && !waits {
					err = errNotYet
				}
				return err
			})
			if tt.lost == nil {
				pauseFor(t, 15*time.Second) // longer than the database may be silent about anything else
				if st := d.Status(); st.Reconnects != 0 {
					t.Errorf("the daemon did not wait for the slot: %+v", st)
				}
			} else {
				tt.lost(database)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tt.lost != nil {
				testkit.Eventually(t, setUpNoticed, func() error {
					if d.Status().Reconnects == 0 {
						return errNotYet
					}
					return nil
				})
				t.Logf("ended: %s", d.Status().Problem)
				database.Heal()
			}
			r.follows(d)
		})
	}
}
