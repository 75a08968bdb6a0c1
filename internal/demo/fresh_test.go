package demo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is a reader whose value depends on how long ago the story began.
func at(begun time.Time, name string, value func(time.Duration) string) reader {
	return reader{name, func(context.Context) (string, error) { return value(time.Since(begun)), nil }}
}

// writeNew commits "new" one second after the readers have started.
func writeNew(ctx context.Context) (string, time.Time, error) {
	rest(ctx, time.Second)
	return "new", time.Now(), nil
}

func changesAt(when time.Duration) func(time.Duration) string {
	return func(d time.Duration) string {
		if d < when {
			return "old"
		}
		return "new"
	}
}

func TestFreshReadsMeasuresFromTheCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		got, err := freshReads(t.Context(), []reader{
			at(now, "late one", changesAt(1250*time.Millisecond)),
			at(now, "one that saw it before COMMIT returned", changesAt(999*time.Millisecond)),
			at(now, "one that goes back", func(d time.Duration) string {
				if d > 1101*time.Millisecond && d < 1103*time.Millisecond {
					return "old"
				}
				return changesAt(1100 * time.Millisecond)(d)
			}),
		}, writeNew)
		if err != nil {
			t.Fatal(err)
		}
		// Polling every half millisecond, 1.1015, 1.1020 and 1.1025 see the old value again.
		want := []freshness{{after: 250 * time.Millisecond}, {}, {after: 100 * time.Millisecond, back: 3}}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(freshness{})); diff != "" {
			t.Errorf("freshReads (-want +got):\n%s", diff)
		}
	})
}

func TestFreshReadsGivesUpOnWhatStaysStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		_, err := freshReads(t.Context(), []reader{
			at(now, "good one", changesAt(time.Second)), at(now, "bad one", changesAt(time.Hour)),
		}, writeNew)
		if err == nil || !strings.Contains(err.Error(), `through the bad one: still "old", not "new"`) {
			t.Errorf("freshReads = %v, want an error about the bad one", err)
		}
	})
}

func TestFreshReadsFailsWithTheWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cut := errors.New("cut off")
		_, err := freshReads(t.Context(), []reader{at(time.Now(), "one", changesAt(0))},
			func(context.Context) (string, time.Time, error) { return "", time.Time{}, cut })
		if !errors.Is(err, cut) {
			t.Errorf("freshReads = %v, want %v", err, cut)
		}
	})
}

func TestUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun, late := time.Now(), errors.New("not yet")
		if err := until(t.Context(), time.Second, time.Millisecond, func(context.Context) error {
			if time.Since(begun) < 100*time.Millisecond {
				return late
			}
			return nil
		}); err != nil || time.Since(begun) != 100*time.Millisecond {
			t.Errorf("until = %v after %v, want nil after 100ms", err, time.Since(begun))
		}
		if err := until(t.Context(), time.Second, time.Millisecond, func(context.Context) error { return late }); !errors.Is(err, late) {
			t.Errorf("until = %v, want %v", err, late)
		}
		calls := 0
		if err := until(t.Context(), time.Second, time.Millisecond, func(context.Context) error {
			calls++
			return permanent(late)
		}); !errors.Is(err, late) || calls != 1 {
			t.Errorf("until = %v after %d calls, want %v after 1", err, calls, late)
		}
	})
}
