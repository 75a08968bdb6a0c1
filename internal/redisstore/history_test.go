package redisstore

import (
	"errors"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestNamelessHistoryIsRefused talks to a server that keeps the name of its history to itself, as a proxy does that
// hides failovers: nothing may be vouched for there.
func TestNamelessHistoryIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	c.store.scripts.claim = newScript(strings.Replace(c.store.scripts.claim.text, "'master_replid:'", "'hidden:'", 1))
	if _, _, err := c.Claim(t.Context(), head.Term); !errors.Is(err, ErrNoHistory) {
		t.Errorf("Claim = %v", err)
	}
}
