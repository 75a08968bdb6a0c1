package pipeline_test

import (
	"context"
	"testing"
	"time"
)

// TestRepeatedGapIsNotAnsweredInALoop has somebody drop the publication again and again under a writer: each time the log
// cannot be decoded any more, and each answer is a new generation, which costs every reader its cache.
func TestRepeatedGapIsNotAnsweredInALoop(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	d := r.start()
	d.streaming()
	vandal := r.connect()
	defer func() { _ = vandal.Close(context.Background()) }()
	const lasts = 6 * time.Second
	began := time.Now()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	// At once, then after 0.1 s, 0.2 s, 0.4 s and so on, each give or take a half; on a busy machine each of them takes a while.
	const least, most = 2, 10
	for time.Since(began) < lasts || d.Status().Gaps < least && time.Since(began) < lasts+patience {
		<-ticker.C
		for _, statement := range []string{`DROP PUBLICATION IF EXISTS freshet`, `UPDATE items SET v = v || '.' WHERE id = 1`} {
			if _, err := vandal.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
	}
	st := d.Status()
	if st.Gaps < least || st.Gaps > most {
		t.Errorf("%d new generations within %v, want %d to %d", st.Gaps, time.Since(began), least, most)
	}
	if st.Reconnects == 0 {
		t.Error("the status does not count that the log had to be taken up again")
	}
	d.streaming()
	name := r.cached("items", 1)
	r.exec(`UPDATE items SET v = 'followed again' WHERE id = 1`)
	r.gone(name)
}
