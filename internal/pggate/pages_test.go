package pggate

import (
	"testing"

	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

func TestRecordEnd(t *testing.T) {
	t.Parallel()
	p := pages{page: 8192, segment: 1 << 24}
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
		if got := p.recordEnd(next); got != want {
			t.Errorf("recordEnd(%v) = %v, want %v", next, got, want)
		}
	}
	if got := (pages{}).recordEnd(8192 + 24); got != 8192+24 {
		t.Errorf("without a page size: %v", got)
	}
}

func TestPagesOfTheServer(t *testing.T) {
	t.Parallel()
	g := open(t, pgtest.Shared(t).Database(t))
	if g.pages.page != 8192 || g.pages.segment < 1<<20 || g.pages.segment%g.pages.page != 0 {
		t.Errorf("pages = %+v", g.pages)
	}
}
