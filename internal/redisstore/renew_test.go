package redisstore

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestRenew: the value stays as it is, byte for byte, and has coverage, row version, age and time to live of a load that
// was just made.
func TestRenew(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	name := s.testName("k")
	for _, state := range []fence.State{fence.Live, fence.Negative} {
		leased(t, s, name, token('a'))
		payload := bytes.Repeat([]byte("\x00{\n}"), 25_000)
		if state == fence.Negative {
			payload = nil
		}
		outcome, err := s.Fill(t.Context(), name, FillRequest{
			Token: token('a'), Coverage: fence.Coverage{Snapshot: sees(10)}, State: state, Payload: payload, RowVersion: "old", TTL: 10 * time.Second,
		})
		if err != nil || outcome != fence.Filled {
			t.Fatalf("Fill = %v, %v", outcome, err)
		}
		before := leased(t, s, name, token('b')).Record
		outcome, err = s.Renew(t.Context(), name, RenewRequest{
			Token: token('b'), Coverage: fence.Coverage{Snapshot: sees(20)}, RowVersion: "a b", TTL: time.Minute,
		})
		if err != nil || outcome != fence.Renewed {
			t.Fatalf("Renew = %v, %v", outcome, err)
		}
		r, err := s.Get(t.Context(), name)
		if err != nil || r.State != state || !bytes.Equal(r.Payload, payload) || r.RowVersion != "a b" || !r.Lease.IsZero() ||
			r.Coverage.Snapshot.Xmax != 20 || r.Filled <= before.Filled {
			t.Fatalf("%v, renewed: %v %v %v %q, filled %d after %d, %d bytes, %v", state, r.State, r.Coverage, r.Lease, r.RowVersion, r.Filled, before.Filled,
				len(r.Payload), err)
		}
		if left := ttl(t, s, name); left < 50*time.Second {
			t.Errorf("it lives for %v", left)
		}
		if outcome, err = s.Renew(t.Context(), name, RenewRequest{Token: token('b'), TTL: time.Minute}); err != nil || outcome != fence.NoLease {
			t.Errorf("Renew once more = %v, %v", outcome, err)
		}
		if err := s.client.Do(t.Context(), s.client.B().Del().Key(name).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

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
