package pggate

import (
	"testing"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func TestPagesOfTheServer(t *testing.T) {
	t.Parallel()
	g := open(t, pgtest.Shared(t).Database(t))
	if g.pages.Page != 8192 || g.pages.Segment < 1<<20 || g.pages.Segment%g.pages.Page != 0 {
		t.Errorf("pages = %+v", g.pages)
	}
}
