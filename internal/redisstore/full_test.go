package redisstore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// full is a server that becomes full while there are a value, an epoch, and a load under way that began before the change which a
// daemon is about to confirm.
type full struct {
	*Store

	daemon               *Conn
	head                 fence.Head
	cached, epoch, under string
}

func becomesFull(t *testing.T, change func(s *Store)) *full {
	t.Helper()
	f := &full{Store: open(t, redistest.Start(t, "--maxmemory-policy", "noeviction"))}
	change(f.Store)
	f.daemon = connect(t, f.Store)
	f.head = begin(t, f.daemon, fence.NewTerm(1, 10))
	f.cached, f.under = f.testName("cached"), f.testName("under")
	f.epoch = f.prefix() + generation + ":e.v.a~0"
	leased(t, f.Store, f.cached, token('a'))
	filled(t, f.Store, f.cached, token('a'), 12)
	pinned, err := f.Pin(t.Context(), []string{f.epoch}, time.Hour)
	if err != nil || len(pinned.IDs) != 1 {
		t.Fatalf("Pin = %+v, %v", pinned, err)
	}
	leased(t, f.Store, f.under, token('b'))
	f.memory(t, "1")
	return f
}

// memory sets how much the server may use.
func (f *full) memory(t *testing.T, limit string) {
	t.Helper()
	if err := f.client.Do(t.Context(), f.client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", limit).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// confirm is a round of the daemon for transaction 15: of the value by UNLINK, of the key that is being loaded by script.
func (f *full) confirm(t *testing.T) error {
	t.Helper()
	stamps := []fence.Stamp{{XID: 15, End: 150}}
	_, err := f.daemon.Apply(t.Context(), Batch{
		Expect: expect(f.head), Wi: 200, Si: sees(20), Names: []string{f.cached}, Keys: []Stamped{{Name: f.under, Stamps: stamps}},
		Epochs: []string{f.epoch}, Advance: 200, Sa: sees(20),
	})
	return err
}

// late is the FILL of the load under way, when there is memory again.
func (f *full) late(t *testing.T) fence.FillOutcome {
	t.Helper()
	f.memory(t, "0")
	return filled(t, f.Store, f.under, token('b'), 12)
}

// TestFullServerTakesInvalidations is T29: nothing more is filled, and what the daemon writes goes on, so that no value outlives its
// change, and none is stored later by a load that began before it.
func TestFullServerTakesInvalidations(t *testing.T) {
	t.Parallel()
	f := becomesFull(t, func(*Store) {})
	if _, err := f.Fill(t.Context(), f.under, FillRequest{
		Token: token('b'), Coverage: fence.Coverage{Snapshot: sees(12)}, State: fence.Live, TTL: time.Minute,
	}); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("Fill = %v", err)
	}
	if _, err := f.Lease(t.Context(), f.testName("more"), token('c'), time.Minute); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("Lease = %v", err)
	}
	if _, err := f.daemon.Early(t.Context(), []Stamped{{Name: f.cached, Stamps: []fence.Stamp{{XID: 15, End: 150}}}}); err != nil {
		t.Errorf("Early = %v", err)
	}
	if err := f.confirm(t); err != nil {
		t.Fatalf("the round of the daemon: %v", err)
	}
	head, _, held, err := f.ReadWithHead(t.Context(), f.cached, []string{f.epoch})
	if err != nil || head.Wc != 200 || head.Sa.Xmax != 20 || held.IDs[0] != "" {
		t.Errorf("HEAD is at %v, the epoch is %q, %v", head.Wc, held.IDs, err)
	}
	if r, err := f.Get(t.Context(), f.cached); err != nil || r.State.Live() {
		t.Errorf("the value is %+v, %v", r, err)
	}
	if got := f.late(t); got != fence.NotCovering {
		t.Errorf("the load from before the change is %v", got)
	}
}

// TestFullServerWithoutLeave runs the same with scripts that a full server may refuse: HEAD stands still, and the load from before the
// change is stored after the daemon has tried.
func TestFullServerWithoutLeave(t *testing.T) {
	t.Parallel()
	f := becomesFull(t, func(s *Store) {
		for _, c := range []*script{&s.scripts.early, &s.scripts.intent, &s.scripts.confirm, &s.scripts.advance} {
			if !strings.HasPrefix(c.text, allowedWhenFull) {
				t.Fatal("a script of the daemon may be refused as it is")
			}
			*c = newScript(refusedWhenFull, strings.TrimPrefix(c.text, allowedWhenFull))
		}
	})
	if err := f.confirm(t); !errors.Is(err, ErrOutOfMemory) {
		t.Fatalf("the round of the daemon: %v", err)
	}
	head, _, _, err := f.ReadWithHead(t.Context(), f.cached, nil)
	if err != nil || head.Wc != 100 {
		t.Errorf("HEAD is at %v, %v", head.Wc, err)
	}
	if got := f.late(t); got != fence.Filled {
		t.Errorf("the load from before the change is %v: something else refuses it, so the other test shows nothing", got)
	}
}
