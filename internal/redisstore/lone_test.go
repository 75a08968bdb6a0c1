package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/faultproxy"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// ages is more than a busy machine takes.
const ages = time.Minute

// patient is a store that does not take a busy machine's for one that is away.
func patient(t *testing.T, address, namespace string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{URL: "redis://" + address, Namespace: namespace, Patience: ages})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// under is what begin's HEAD says.
func under() *store.Under {
	return &store.Under{Generation: generation, Revision: 1, Wc: 100, Trust: ages}
}

// over is what a read under names finds, and whether it came over the connection of a lone reader.
func over(t *testing.T, s *Store, name string, u *store.Under) (text string, alone bool) {
	t.Helper()
	before := s.lone.last()
	held, err := s.ReadUnder(t.Context(), name, nil, u)
	if err != nil {
		t.Fatal(err)
	}
	return string(held.Text), s.lone.last() > before
}

// current is the connection; nil when there is none.
func (l *lone) current() *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}

// last is when the connection was used last; 0 when there is none.
func (l *lone) last() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line == nil {
		return 0
	}
	return l.line.used
}

// settle reads until there is a connection for a lone reader.
func settle(t *testing.T, s *Store, name string, u *store.Under) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() error {
		for range aloneAfter + 1 {
			if _, err := s.ReadUnder(t.Context(), name, nil, u); err != nil {
				return err
			}
		}
		if s.lone.last() == 0 {
			return errors.New("no connection for a lone reader was made")
		}
		return nil
	})
}

// stored has a server with a HEAD and one record in a store.
func stored(t *testing.T, s *Store, name string) {
	t.Helper()
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	leased(t, s, name, token('a'))
	if outcome := filled(t, s, name, token('a'), 10); outcome != fence.Filled {
		t.Fatalf("Fill = %v", outcome)
	}
}

// connections is how many the server has that readers made, without the daemon's.
func connections(t *testing.T, server *redistest.Server) int {
	t.Helper()
	text, err := server.Ask(t, "CLIENT", "LIST").ToString()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(text, " name=freshet ")
}

// TestLoneReader: who reads alone has a connection, and finds on it what others find; who meets another reader shares one.
func TestLoneReader(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := patient(t, server.Addr, redistest.Namespace(t))
	name := s.testName("k")
	c := connect(t, s)
	begin(t, c, fence.NewTerm(1, 10))
	c.Close()
	leased(t, s, name, token('a'))
	filled(t, s, name, token('a'), 10)
	want, err := s.Read(t.Context(), name)
	if err != nil || want == nil {
		t.Fatalf("%q, %v", want, err)
	}
	before := connections(t, server)
	settle(t, s, name, under())
	if n := connections(t, server); n != before+1 {
		t.Errorf("%d connections, and %d before", n, before)
	}
	if text, lone := over(t, s, name, under()); text != string(want) || !lone {
		t.Errorf("%q, over a connection of its own: %v", text, lone)
	}
	if text, lone := over(t, s, s.testName("absent"), under()); text != "" || !lone {
		t.Errorf("%q, over a connection of its own: %v", text, lone)
	}
	epochs := []string{s.testName("~1"), s.testName("~2")}
	server.Do(t, "SET", epochs[1], "0123456789abcdef0123456789abcdef")
	held, err := s.ReadUnder(t.Context(), name, epochs, under())
	if err != nil || !bytes.Equal(held.Text, want) || !slices.Equal(held.IDs, []string{"", "0123456789abcdef0123456789abcdef"}) {
		t.Errorf("%q %q, %v", held.Text, held.IDs, err)
	}
	s.lone.come() // another reader
	if text, lone := over(t, s, name, under()); text != string(want) || lone {
		t.Errorf("beside another reader: %q, over a connection of its own: %v", text, lone)
	}
	s.lone.leave()
	for i := range aloneAfter - 1 {
		if text, lone := over(t, s, name, under()); text != string(want) || lone {
			t.Fatalf("%d reads after another reader: %q, over a connection of its own: %v", i, text, lone)
		}
	}
	if _, lone := over(t, s, name, under()); !lone {
		t.Error("who is alone again has not the connection again")
	}
}

// TestLoneReaderElsewhere: what a connection of its own finds is believed under the HEAD alone that was confirmed on the shared one, whatever
// server it leads to.
func TestLoneReaderElsewhere(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		words    []string // what is done to the other server
		believed bool
	}{
		"as confirmed":     {[]string{"HSET", "wc", fmt.Sprintf("%016x", 100)}, true},
		"ahead":            {[]string{"HSET", "wc", fmt.Sprintf("%016x", 200)}, true},
		"behind":           {[]string{"HSET", "wc", fmt.Sprintf("%016x", 99)}, false},
		"other names":      {[]string{"HSET", "rev", fmt.Sprintf("%016x", 2)}, false},
		"other generation": {[]string{"HSET", "gen", "00000000000000bb"}, false},
		"no head":          {[]string{"DEL"}, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			here, there := redistest.Start(t), redistest.Start(t)
			namespace := redistest.Namespace(t)
			name := openNamespace(t, here, namespace).testName("k")
			stored(t, openNamespace(t, here, namespace), name)
			stored(t, openNamespace(t, there, namespace), name)
			there.Do(t, "SET", name, "old")
			there.Do(t, append([]string{tt.words[0], "f:" + namespace + ":head"}, tt.words[1:]...)...)
			proxy := faultproxy.Start(t, here.Addr)
			s := patient(t, proxy.Addr, namespace)
			proxy.LeadEach(there.Addr)
			want, err := s.Read(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if tt.believed {
				settle(t, s, name, under())
				if text, lone := over(t, s, name, under()); text != "old" || !lone {
					t.Errorf("%q, over a connection of its own: %v", text, lone)
				}
				return
			}
			settle(t, s, name, under())
			elsewhere := s.lone.current()
			testkit.Eventually(t, 20*time.Second, func() error { // the next one leads to the server of the shared one
				text, lone := over(t, s, name, under())
				if text != string(want) {
					t.Fatalf("%q was believed", text)
				}
				if !lone || s.lone.current() == elsewhere {
					return errors.New("the connection is not given up")
				}
				return nil
			})
		})
	}
}

// TestLoneReaderWhenNamesMove: names that HEAD was seen to have are believed for T_r at most, and others not before it was seen to have them.
func TestLoneReaderWhenNamesMove(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := patient(t, server.Addr, redistest.Namespace(t))
	name := s.testName("k")
	stored(t, s, name)
	settle(t, s, name, under())
	brief := under()
	brief.Trust = time.Nanosecond
	if _, ok, err := s.lone.read(t.Context(), name, nil, brief); ok || err != nil {
		t.Errorf("an answer counted that came after T_r: %v", err)
	}
	server.Do(t, "HSET", s.headKey(0), "rev", fmt.Sprintf("%016x", 2))
	moved := under()
	moved.Revision = 2
	testkit.Eventually(t, 20*time.Second, func() error {
		if _, ok, err := s.lone.read(t.Context(), name, nil, moved); !ok || err != nil {
			return errors.Join(errors.New("not read under the new names"), err)
		}
		return nil
	})
	if _, ok, err := s.lone.read(t.Context(), name, nil, under()); ok || err != nil {
		t.Errorf("an answer counted under names that had moved: %v", err)
	}
}

// TestLoneReaderGoes: who goes does so at once, though his connection hangs; what comes after it is answered over the shared one.
func TestLoneReaderGoes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	namespace := redistest.Namespace(t)
	name := openNamespace(t, server, namespace).testName("k")
	stored(t, openNamespace(t, server, namespace), name)
	proxy := faultproxy.Start(t, server.Addr)
	s := patient(t, proxy.Addr, namespace)
	settle(t, s, name, under())
	const second = 2
	proxy.HoldOne(second, faultproxy.ToClient)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := s.ReadUnder(ctx, name, nil, under())
		failed <- err
	}()
	testkit.Eventually(t, 20*time.Second, func() error {
		if s.lone.reads.Load() == 0 {
			return errors.New("not reading yet")
		}
		return nil
	})
	cancel()
	select {
	case err := <-failed:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled read: %v", err)
		}
	case <-time.After(ages / 2):
		t.Fatal("a cancelled read waits for its answer")
	}
	if text, alone := over(t, s, name, under()); !strings.Contains(text, `{"seen":10}`) || alone {
		t.Errorf("the next read: %q, over a connection of its own: %v", text, alone)
	}
}

// TestLoneReaderOfAHungServer: a connection that is not answered is the store's not answering.
func TestLoneReaderOfAHungServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	name := s.testName("k")
	stored(t, s, name)
	settle(t, s, name, under())
	server.Freeze(t)
	began := time.Now()
	if _, err := s.ReadUnder(t.Context(), name, nil, under()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an answer of a frozen server: %v", err)
	}
	if took := time.Since(began); took > ages/2 {
		t.Errorf("a lone reader waited %v for a frozen server", took)
	}
	server.Thaw(t)
}

// TestLoneReaderLosesItsConnection: a read does not fail because its connection has ended, and none outlives the shared one, or a long silence.
func TestLoneReaderLosesItsConnection(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := patient(t, server.Addr, redistest.Namespace(t))
	name := s.testName("k")
	stored(t, s, name)
	ends := map[string]func(){
		"killed": func() {
			id, err := s.lone.current().client.Do(t.Context(), s.client.B().ClientId().Build()).AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			server.Do(t, "CLIENT", "KILL", "ID", strconv.FormatInt(id, 10))
		},
		"silent": func() {
			s.lone.mu.Lock()
			s.lone.line.used -= loneIdle
			s.lone.mu.Unlock()
		},
		"without the shared one": func() {
			id, err := s.client.Do(t.Context(), s.client.B().ClientId().Build()).AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			lost := s.tracker.wire.Load()
			server.Do(t, "CLIENT", "KILL", "ID", strconv.FormatInt(id, 10))
			testkit.Eventually(t, 20*time.Second, func() error {
				if !lost.Lost() {
					return errors.New("its end is not noticed yet")
				}
				_, err := s.Read(t.Context(), name) // makes another one
				return err
			})
		},
	}
	for what, end := range ends {
		settle(t, s, name, under())
		line := s.lone.current()
		end()
		held, err := s.ReadUnder(t.Context(), name, nil, under())
		if err != nil || !strings.Contains(string(held.Text), `{"seen":10}`) {
			t.Errorf("%s: %q, %v", what, held.Text, err)
		}
		s.lone.mu.Lock()
		if s.lone.line == line {
			t.Errorf("%s: the connection is in use", what)
		}
		s.lone.rest = 0
		s.lone.mu.Unlock()
	}
}

// TestLoneReaderAndTheCrowd: readers come and go, connections end under them, and each finds what is there.
func TestLoneReaderAndTheCrowd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := patient(t, server.Addr, redistest.Namespace(t))
	name := s.testName("k")
	stored(t, s, name)
	read := func(ctx context.Context) {
		held, err := s.ReadUnder(ctx, name, nil, under())
		if ctx.Err() == nil && (err != nil || !strings.Contains(string(held.Text), `{"seen":10}`)) {
			t.Errorf("%q, %v", held.Text, err)
		}
	}
	for round := range 20 {
		settle(t, s, name, under())
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for n := range 50 {
					if i == 0 && n == round {
						cancel()
					}
					read(ctx)
				}
			})
		}
		all.Wait()
		s.lone.mu.Lock()
		if s.lone.rest = 0; round%2 == 0 {
			s.lone.drop(nil)
		}
		s.lone.mu.Unlock()
	}
}
