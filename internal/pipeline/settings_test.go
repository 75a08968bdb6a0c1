package pipeline_test

import (
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestRoleWithSettingsOfItsOwn has the daemon work under a role whose sessions are read-only, and end when a statement or
// a pause lasts, and with an address that is meant for a pool.
func TestRoleWithSettingsOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{pg: pgtest.Start(t, pgtest.Options{})})
	r.exec(`CREATE ROLE narrow SUPERUSER LOGIN`)
	for _, setting := range []string{
		`default_transaction_read_only = on`, `default_transaction_isolation = 'serializable'`, `statement_timeout = '1ms'`,
		`lock_timeout = '1ms'`, `idle_session_timeout = '500ms'`, `idle_in_transaction_session_timeout = '1ms'`,
	} {
		r.exec(`ALTER ROLE narrow SET ` + setting)
	}
	plain := r.url
	r.url = strings.Replace(plain, "postgres@", "narrow@", 1) + "&pool_max_conns=4&pool_min_conns=1"
	d := r.start()
	r.url = plain
	first := d.streaming()
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	r.gone(name)
	// Past the pauses of the watch, which is the connection that is idle for longest.
	d.await("looking for a while", func(st pipeline.Status) bool { return time.Since(first.Since) > 3*time.Second })
	if st := d.Status(); st.Reconnects != 0 || st.Term != first.Term || st.Phase != pipeline.Streaming {
		t.Errorf("the stream was taken up again: %+v", st)
	}
}
