package pipeline_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/testkit"
)

// TestFirstStartBesideAnOpenTransaction starts the first daemon while a transaction that wrote is open, for which a new slot
// waits: it says so, and who that is; it stops when it is told to, leaving no half-made slot; and it goes on when the
// transaction is over.
func TestFirstStartBesideAnOpenTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.exec(`CREATE TABLE others (id int PRIMARY KEY)`)
	open := r.connect()
	defer func() { _ = open.Close(context.Background()) }()
	if _, err := open.Exec(t.Context(), `BEGIN; INSERT INTO others VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	who := fmt.Sprintf("process %d since ", open.PgConn().PID())
	told := func(st pipeline.Status) bool {
		return st.Phase == pipeline.CreatingSlot && strings.Contains(st.Problem, who)
	}
	d := r.start()
	d.await("saying who holds the slot up", told)
	began := time.Now()
	d.stop()
	if took := time.Since(began); took > patience {
		t.Errorf("stopping took %v", took)
	}
	testkit.Eventually(t, patience, func() error {
		if slot := r.slotState(); slot.Exists {
			return fmt.Errorf("the slot that was given up is still there: %+v", slot)
		}
		return nil
	})
	d = r.start()
	d.await("saying who holds the slot up", told)
	if _, err := open.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if st := d.streaming(); st.Problem != "" {
		t.Errorf("a problem is left: %s", st.Problem)
	}
}
