package redisstore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestMany does for many records, on a server and in a cluster, what is done for each of them, whether the servers know the
// scripts or not, and under a HEAD that is read after the leases and before the records.
func TestMany(t *testing.T) {
	t.Parallel()
	for what, start := range map[string]func(*testing.T) (*Store, *Conn, []string){
		"server": func(t *testing.T) (*Store, *Conn, []string) {
			t.Helper()
			s := open(t, redistest.Start(t))
			c := connect(t, s)
			begin(t, c, fence.NewTerm(1, 10))
			var names []string
			for i := range 40 {
				names = append(names, s.testName(fmt.Sprintf("k%d", i)))
			}
			return s, c, names
		},
		"cluster": func(t *testing.T) (*Store, *Conn, []string) {
			t.Helper()
			s, err := Open(t.Context(), Options{URL: redistest.StartCluster(t, 3, false).URL, Namespace: redistest.Namespace(t)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			c := connect(t, s)
			begin(t, c, fence.NewTerm(1, 10))
			var names []string
			for i := range 40 {
				names = append(names, s.nameIn(c, i%fence.Lanes, fmt.Sprintf("k%d-", i)))
			}
			return s, c, names
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, c, names := start(t)
			// The bucket of one of them has a floor of its own.
			if _, err := c.Apply(t.Context(), Batch{
				Expect: Expected{Generation: generation, Term: fence.NewTerm(1, 10), Wc: 100}, Wi: 200, Si: sees(20), Names: names[7:8], Advance: 200, Sa: sees(20),
			}); err != nil {
				t.Fatal(err)
			}
			leaseMany(t, s, names)
			fillMany(t, s, names)
			readMany(t, s, names)
		})
	}
}

// forgetScripts has all servers forget them.
func (s *Store) forgetScripts(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		to, err := s.to(name)
		if err == nil {
			err = to.client.Do(t.Context(), s.client.B().ScriptFlush().Build()).Error()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func leaseMany(t *testing.T, s *Store, names []string) {
	t.Helper()
	all := make([]Leasing, len(names))
	for i, name := range names {
		all[i] = Leasing{Name: name, Token: fence.Token(fmt.Sprintf("%032x", i+1)), Lasts: time.Minute}
	}
	s.forgetScripts(t, names)
	for _, granted := range []bool{true, false} { // the second time somebody else asks
		if !granted {
			for i := range all {
				all[i].Token = fence.Token(fmt.Sprintf("%032x", 1000+i))
			}
		}
		for i, l := range s.LeaseMany(t.Context(), all) {
			want := fence.Token(fmt.Sprintf("%032x", i+1))
			if l.Err != nil || l.Granted != granted || l.Holder != want || l.Record.Lease.Token != want || !l.HeadFound || l.Head.Generation != generation || l.Now == 0 {
				t.Fatalf("key %d, granted %v: %+v", i, granted, l)
			}
			if alone := leaseAgain(t, s, names[i]); l.Head.Wi != alone.Head.Wi || l.Head.Lane != alone.Head.Lane || !cmp.Equal(l.Head.Si, alone.Head.Si) {
				t.Errorf("key %d: HEAD %+v, and by a lease alone %+v", i, l.Head, alone.Head)
			}
			if raised := l.Head.Wi == 200; raised != (i == 7) && fence.BucketOf(names[i]) != fence.BucketOf(names[7]) {
				t.Errorf("key %d: floor %v", i, l.Head.Wi)
			}
		}
	}
}

func leaseAgain(t *testing.T, s *Store, name string) LeaseReply {
	t.Helper()
	reply, err := s.Lease(t.Context(), name, token('f'), time.Minute)
	if err != nil || reply.Granted {
		t.Fatalf("%+v, %v", reply, err)
	}
	return reply
}

func fillMany(t *testing.T, s *Store, names []string) {
	t.Helper()
	fillings := make([]Filling, len(names))
	for i, name := range names {
		fillings[i] = Filling{Name: name, FillRequest: FillRequest{
			Token: fence.Token(fmt.Sprintf("%032x", i+1)), Coverage: fence.Coverage{Snapshot: sees(30)}, State: fence.Live, Payload: fmt.Append(nil, i), TTL: time.Minute,
		}}
	}
	fillings[3].Token = token('e') // not the lease's
	fillings[4].State = fence.None
	s.forgetScripts(t, names)
	for i, f := range s.FillMany(t.Context(), fillings) {
		switch {
		case i == 3 && (f.Err != nil || f.Outcome != fence.NoLease), i == 4 && f.Err == nil, i > 4 && (f.Err != nil || f.Outcome != fence.Filled):
			t.Errorf("key %d: %+v", i, f)
		}
	}
	s.forgetScripts(t, names)
	if err := s.ReleaseMany(t.Context(), names[3:5], []fence.Token{fence.Token(fmt.Sprintf("%032x", 4)), fence.Token(fmt.Sprintf("%032x", 5))}); err != nil {
		t.Error(err)
	}
}

func readMany(t *testing.T, s *Store, names []string) {
	t.Helper()
	// Epochs of some of them: those of one lane, in a cluster.
	var pins [][]string
	for _, name := range names[:3] {
		pins = append(pins, []string{name + "#1", name + "#2"})
	}
	first, again := s.PinMany(t.Context(), pins, time.Minute), s.PinMany(t.Context(), pins, time.Minute)
	all := make([]Reading, len(names))
	for i, name := range names {
		all[i].Name = name
		if i >= len(pins) {
			continue
		}
		all[i].Epochs = pins[i]
		alone, err := s.Pin(t.Context(), pins[i], time.Minute)
		if err != nil || first[i].Err != nil || !cmp.Equal(alone, first[i].Pinned) || !cmp.Equal(first[i], again[i]) || !fence.ValidEpochID(alone.IDs[0]) {
			t.Errorf("pins of %d: %+v, then %+v, alone %+v, %v", i, first[i], again[i], alone, err)
		}
	}
	for _, head := range []bool{false, true} {
		if head {
			s.forgetScripts(t, names)
		}
		for i, f := range s.ReadMany(t.Context(), all, head) {
			text, err := s.Read(t.Context(), names[i])
			if err != nil || f.Err != nil || !bytes.Equal(text, f.Text) || (f.Text == nil) != (i == 3 || i == 4) {
				t.Errorf("key %d: %q, %v, alone %q, %v", i, f.Text, f.Err, text, err)
			}
			if i < len(pins) && !cmp.Equal(f.IDs, first[i].IDs) {
				t.Errorf("key %d: epochs %v, pinned %v", i, f.IDs, first[i].IDs)
			}
			alone, found, _, err := s.ReadWithHead(t.Context(), names[i], nil)
			if err != nil || f.HeadFound != head || head && (!found || !cmp.Equal(f.Head, alone)) {
				t.Errorf("key %d: HEAD %+v, alone %+v, %v", i, f.Head, alone, err)
			}
		}
	}
}

// TestManyOfASilentServer: each key has the error.
func TestManyOfASilentServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	server.Kill(t)
	names := []string{s.testName("a"), s.testName("b")}
	for i, f := range s.ReadMany(t.Context(), []Reading{{Name: names[0]}, {Name: names[1]}}, true) {
		if !errors.Is(f.Err, ErrUnavailable) {
			t.Errorf("read %d: %+v", i, f)
		}
	}
	for i, l := range s.LeaseMany(t.Context(), []Leasing{{Name: names[0], Token: token('a'), Lasts: time.Second}, {Name: names[1], Token: token('b'), Lasts: time.Second}}) {
		if !errors.Is(l.Err, ErrUnavailable) {
			t.Errorf("lease %d: %+v", i, l)
		}
	}
	for i, p := range s.PinMany(t.Context(), [][]string{{names[0]}, {names[1]}}, time.Second) {
		if !errors.Is(p.Err, ErrUnavailable) {
			t.Errorf("pin %d: %+v", i, p)
		}
	}
	if err := s.ReleaseMany(t.Context(), names, []fence.Token{token('a'), token('b')}); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}
