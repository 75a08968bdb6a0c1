package store

import (
	"testing"
	"time"
)

func TestAwakeGoesOn(t *testing.T) {
	t.Parallel()
	before, start := Awake(), time.Now()
	timer := time.NewTimer(20 * time.Millisecond)
	<-timer.C
	passed, took := Awake()-before, time.Since(start)
	if passed < 20*time.Millisecond || passed > took+time.Second {
		t.Errorf("%v passed while %v did", passed, took)
	}
}
