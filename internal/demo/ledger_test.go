package demo

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func wait(d time.Duration) { <-time.NewTimer(d).C }

func TestLedgerJudgesReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.know("product:1", "10.00")
		beforeAll := time.Now()
		wait(time.Second)
		firstCommit, err := l.write("product:1", "11.00", func() error {
			wait(time.Second)
			if stale, isTrue := l.judge("product:1", "10.00", time.Now()); stale != 0 || !isTrue {
				t.Errorf("old value before COMMIT returned: %v, %v, want fresh", stale, isTrue)
			}
			if stale, isTrue := l.judge("product:1", "11.00", time.Now()); stale != 0 || !isTrue {
				t.Errorf("new value before COMMIT returned: %v, %v, want fresh", stale, isTrue)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wait(3 * time.Second)
		if _, err := l.write("product:1", "12.00", func() error { return errors.New("cut off") }); err == nil {
			t.Error("the write's error is gone")
		}
		for _, tt := range []struct {
			name, value string
			started     time.Time
			stale       time.Duration
			isTrue      bool
		}{
			{"old value read before the commit", "10.00", beforeAll, 0, true},
			{"old value read after the commit", "10.00", firstCommit.Add(2 * time.Second), 2 * time.Second, true},
			{"value before one that may not be committed", "11.00", time.Now(), 0, true},
			{"value that may be committed", "12.00", time.Now(), 0, true},
			{"value that never was", "13.00", time.Now(), 0, false},
		} {
			if stale, isTrue := l.judge("product:1", tt.value, tt.started); stale != tt.stale || isTrue != tt.isTrue {
				t.Errorf("%s: judge = %v, %v, want %v, %v", tt.name, stale, isTrue, tt.stale, tt.isTrue)
			}
		}
		if got := l.last("product:1"); got != "12.00" {
			t.Errorf("last = %s, want 12.00", got)
		}
	})
}

func TestLedgerTakesAReturnedValueForTheLastOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.know("user:1", "Oslo")
		for _, city := range []string{"Porto", "Oslo"} {
			wait(time.Second)
			if _, err := l.write("user:1", city, func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		wait(time.Second)
		if stale, isTrue := l.judge("user:1", "Oslo", time.Now()); stale != 0 || !isTrue {
			t.Errorf("judge(Oslo) = %v, %v, want fresh", stale, isTrue)
		}
		if stale, isTrue := l.judge("user:1", "Porto", time.Now()); stale != time.Second || !isTrue {
			t.Errorf("judge(Porto) = %v, %v, want 1s", stale, isTrue)
		}
	})
}
