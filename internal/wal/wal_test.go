package wal_test

import (
	"testing"

	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

func TestRecordEnd(t *testing.T) {
	t.Parallel()
	p := wal.Pages{Page: 8192, Segment: 1 << 24}
	for next, want := range map[mvcc.LSN]mvcc.LSN{
		8192 + 24:       8192,
		8192 + 32:       8192 + 32,
		8192:            8192,
		1<<24 + 40:      1 << 24,
		1<<24 + 24:      1<<24 + 24,
		5<<24 + 40:      5 << 24,
		1<<24 + 8192*3:  1<<24 + 8192*3,
		3*8192 + 24 + 8: 3*8192 + 32,
	} {
		if got := p.RecordEnd(next); got != want {
			t.Errorf("RecordEnd(%v) = %v, want %v", next, got, want)
		}
	}
	if got := (wal.Pages{}).RecordEnd(8192 + 24); got != 8192+24 {
		t.Errorf("without a page size: %v", got)
	}
}
