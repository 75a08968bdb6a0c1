package redisstore

import (
	"errors"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestRenewOnAFullServer: it asks for no memory that FILL would not ask for, and is refused like that.
func TestRenewOnAFullServer(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t, "--maxmemory-policy", "noeviction"))
	name := s.testName("k")
	leased(t, s, name, token('a'))
	filled(t, s, name, token('a'), 10)
	leased(t, s, name, token('b'))
	if err := s.client.Do(t.Context(), s.client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(t.Context(), name, RenewRequest{
		Token: token('b'), Coverage: fence.Coverage{Snapshot: sees(20)}, TTL: time.Minute,
	}); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("Renew on a full server = %v", err)
	}
	if r, err := s.Get(t.Context(), name); err != nil || r.State != fence.Live || r.Coverage.Snapshot.Xmax != 10 {
		t.Errorf("the record is %+v, %v", r, err)
	}
}
