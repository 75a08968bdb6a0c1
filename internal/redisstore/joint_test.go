package redisstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// lead makes the caller the one who has to send what other reads of the lane join, and keeps it open until send is called.
func (s *Store) lead(t *testing.T, lane int, name string) (send func(ctx context.Context) (fence.Head, Tied, error)) {
	t.Helper()
	l := &s.joints[lane]
	j, at := l.join(ask{name: name})
	if at != 0 {
		t.Fatal("somebody else is first")
	}
	return func(ctx context.Context) (fence.Head, Tied, error) {
		to, err := s.to(name)
		if err != nil {
			t.Fatal(err)
		}
		l.close(j)
		s.sendJoint(ctx, &to, j)
		head, _, held, err := j.answer(&to, at)
		return head, held, err
	}
}

// joined waits until n reads are about to share a HEAD.
func (s *Store) joined(t *testing.T, lane, n int) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, func() error {
		l := &s.joints[lane]
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.open == nil || len(l.open.asks) != n {
			return fmt.Errorf("%d have not come together", n)
		}
		return nil
	})
}

// outcome is what a ReadWithHead gave.
type outcome struct {
	head fence.Head
	held Tied
	err  error
}

func (s *Store) inBackground(ctx context.Context, name string, epochs ...string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		o.head, _, o.held, o.err = s.ReadWithHead(ctx, name, epochs)
		done <- o
	}()
	return done
}

func (s *Store) set(t *testing.T, name, text string) {
	t.Helper()
	if err := s.client.Do(t.Context(), s.client.B().Set().Key(name).Value(text).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// TestReadsShareAHead: each of those who come together gets its own record, with its own epochs, or its own error; and the server is
// asked for HEAD once.
func TestReadsShareAHead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	a, b, list, none := s.testName("a"), s.testName("b"), s.testName("list"), s.testName("none")
	s.set(t, a, "text of a")
	s.set(t, b, "text of b")
	s.set(t, "epoch", "its id")
	if err := s.client.Do(t.Context(), s.client.B().Lpush().Key(list).Element("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	before := calls(t, s)
	send := s.lead(t, 0, a)
	tied := s.inBackground(t.Context(), b, "epoch", "no epoch")
	s.joined(t, 0, 2)
	broken := s.inBackground(t.Context(), list)
	s.joined(t, 0, 3)
	missing := s.inBackground(t.Context(), none)
	s.joined(t, 0, 4)
	gone, leave := context.WithCancel(t.Context())
	left := s.inBackground(gone, a)
	s.joined(t, 0, 5)
	leave()
	if o := <-left; !errors.Is(o.err, context.Canceled) {
		t.Errorf("who has left gets %v", o.err)
	}
	head, held, err := send(t.Context())
	if err != nil || head.Wc != 100 || string(held.Text) != "text of a" {
		t.Errorf("who sends gets %q under Wc %v, %v", held.Text, head.Wc, err)
	}
	if o := <-tied; o.err != nil || o.head.Wc != 100 || string(o.held.Text) != "text of b" || !cmp.Equal(o.held.IDs, []string{"its id", ""}) {
		t.Errorf("the tied one gets %q, %q, %v", o.held.Text, o.held.IDs, o.err)
	}
	if o := <-broken; !errors.Is(o.err, ErrRefused) {
		t.Errorf("the list is %q, %v", o.held.Text, o.err)
	}
	if o := <-missing; o.err != nil || o.held.Text != nil || o.head.Wc != 100 {
		t.Errorf("what is not there is %q under Wc %v, %v", o.held.Text, o.head.Wc, o.err)
	}
	if n := calls(t, s) - before; n != 1 {
		t.Errorf("HEAD was read %d times", n)
	}
}

// calls is how often the server has run HMGET, which reads HEAD.
func calls(t *testing.T, s *Store) int {
	t.Helper()
	text, err := s.client.Do(t.Context(), s.client.B().Info().Section("commandstats").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for line := range strings.Lines(text) {
		if _, err := fmt.Sscanf(line, "cmdstat_hmget:calls=%d,", &n); err == nil {
			return n
		}
	}
	return 0
}

// TestNobodyDependsOnWhoSends: when the one who sends for all goes away, the others ask for themselves.
func TestNobodyDependsOnWhoSends(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	name := s.testName("k")
	s.set(t, name, "text")
	send := s.lead(t, 0, name)
	done := s.inBackground(t.Context(), name)
	s.joined(t, 0, 2)
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := send(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who sends and has gone gets %v", err)
	}
	if o := <-done; o.err != nil || o.head.Wc != 100 || string(o.held.Text) != "text" {
		t.Errorf("the other one gets %q under Wc %v, %v", o.held.Text, o.head.Wc, o.err)
	}
	if _, _, _, err := s.ReadWithHead(gone, name, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("under a context that has ended: %v", err)
	}
}

// TestManyShareAFewHeads: no pipeline has more than maxJoint records.
func TestManyShareAFewHeads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	s.set(t, s.testName("k"), "text")
	send := s.lead(t, 0, s.testName("k"))
	before := calls(t, s)
	var readers sync.WaitGroup
	for range maxJoint {
		readers.Go(func() {
			if _, _, held, err := s.ReadWithHead(t.Context(), s.testName("k"), nil); err != nil || string(held.Text) != "text" {
				t.Errorf("got %q, %v", held.Text, err)
			}
		})
	}
	// The last to come finds no place, and does not wait for who leads those before it.
	testkit.Eventually(t, 10*time.Second, func() error {
		if s.joints[0].reading.Load() != maxJoint-1 || calls(t, s)-before != 1 {
			return errors.New("the first pipeline is not full, or nobody sends another")
		}
		return nil
	})
	if _, _, err := send(t.Context()); err != nil {
		t.Error(err)
	}
	readers.Wait()
	if n := calls(t, s) - before; n != 2 {
		t.Errorf("HEAD was read %d times", n)
	}
}

// TestWhatHeadVouchesForIsTrueOfEachRecord is the promise of ReadWithHead, for reads that share a HEAD: the record is never older
// than what HEAD says, and never older than the read. A record is written before HEAD says so, and HEAD before the reads are told.
func TestWhatHeadVouchesForIsTrueOfEachRecord(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	h := begin(t, c, fence.NewTerm(1, 10))
	writes := open(t, redistest.Shared(t)) // a connection of their own
	const keys, readers, writtenTimes = 4, 8, 50
	var names [keys]string
	for i := range names {
		names[i] = s.testName(strconv.Itoa(i))
		writes.set(t, names[i], strconv.FormatUint(uint64(h.Wc), 10))
	}
	var (
		told   atomic.Uint64
		over   atomic.Bool
		reads  atomic.Int64
		before = s.joints[0].last.Load()
		group  sync.WaitGroup
	)
	defer group.Wait()
	defer over.Store(true)
	for i := range readers {
		group.Go(func() {
			for n := i; !over.Load(); n++ {
				known := told.Load()
				head, found, held, err := s.ReadWithHead(t.Context(), names[n%keys], nil)
				if err != nil || !found {
					t.Errorf("ReadWithHead: %v, %v", found, err)
					return
				}
				version, err := strconv.ParseUint(string(held.Text), 10, 64)
				if err != nil || version < uint64(head.Wc) || uint64(head.Wc) < known {
					t.Errorf("the record is %d under a HEAD of %d, to a read that began after %d, %v", version, head.Wc, known, err)
					return
				}
				reads.Add(1)
			}
		})
	}
	for n := uint64(101); n <= 100+writtenTimes; n++ {
		for _, name := range names {
			writes.set(t, name, strconv.FormatUint(n, 10))
		}
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(h), Wi: mvcc.LSN(n), Si: sees(mvcc.XID(n)), Advance: mvcc.LSN(n), Sa: sees(mvcc.XID(n))}); err != nil {
			t.Fatal(err)
		}
		h.Wc = mvcc.LSN(n)
		told.Store(n)
	}
	over.Store(true)
	group.Wait()
	if last := s.joints[0].last.Load(); last == before || reads.Load() < writtenTimes {
		t.Errorf("%d reads, the last HEAD is %+v", reads.Load(), last)
	}
}

// TestReadsShareTheHeadOfTheirLane: in a cluster the lanes have HEADs of their own, read by a script, which a server may have
// forgotten.
func TestReadsShareTheHeadOfTheirLane(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	s, err := Open(t.Context(), Options{URL: cluster.URL, Namespace: redistest.Namespace(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c := connect(t, s)
	begin(t, c, fence.NewTerm(1, 10))
	var group sync.WaitGroup
	for lane := range fence.Lanes {
		first, second := s.nameIn(c, lane, "a"), s.nameIn(c, lane, "b")
		text := fmt.Sprintf("f1 V - - - s:%016x:%016x: - %016x\n%d", 10, 10, 1, lane)
		for _, name := range []string{first, second} {
			to, err := s.to(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := to.client.Do(t.Context(), s.client.B().Set().Key(name).Value(text).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		send := s.lead(t, lane, first)
		done := s.inBackground(t.Context(), second)
		group.Go(func() {
			s.joined(t, lane, 2)
			head, held, err := send(t.Context())
			for _, o := range []outcome{{head, held, err}, <-done} {
				if o.err != nil || o.head.Lane != c.Generations()[lane] || string(o.held.Text) != text {
					t.Errorf("lane %d: HEAD of %q and %q, %v", lane, o.head.Lane, o.held.Text, o.err)
				}
			}
		})
	}
	group.Wait()
	for _, server := range cluster.Masters {
		server.Do(t, "SCRIPT", "FLUSH")
	}
	for lane := range fence.Lanes {
		if head, found, _, err := s.ReadWithHead(t.Context(), s.nameIn(c, lane, "a"), nil); err != nil || !found || head.Lane != c.Generations()[lane] {
			t.Errorf("lane %d, after the scripts were forgotten: HEAD of %q, %v", lane, head.Lane, err)
		}
	}
}

// stepwise is a way to the server on which commands go one at a time, each when the server has begun to answer the one before. before is
// called with the name of each.
func stepwise(t *testing.T, server *redistest.Server, before func(command string)) (address string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	working.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			working.Go(func() {
				defer func() { _ = client.Close() }()
				to, err := new(net.Dialer).DialContext(t.Context(), "tcp4", server.Addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = to.Close() }()
				answers, commands := make([]byte, 64<<10), bufio.NewReader(client)
				for {
					name, command, err := nextCommand(commands)
					if err != nil {
						return // gone
					}
					before(name)
					if _, err = to.Write(command); err != nil {
						return
					}
					n, err := to.Read(answers)
					if err != nil {
						return
					}
					if _, err = client.Write(answers[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		working.Wait()
	})
	return listener.Addr().String()
}

// nextCommand reads a command, as its name and as it is sent.
func nextCommand(r *bufio.Reader) (name string, command []byte, err error) {
	number := func() (n int) {
		var line []byte
		if line, err = r.ReadBytes('\n'); err == nil {
			command = append(command, line...)
			n, err = strconv.Atoi(strings.TrimSpace(string(line[1:])))
		}
		return n
	}
	for range number() {
		word := make([]byte, number()+2)
		if err == nil {
			_, err = io.ReadFull(r, word)
		}
		if command = append(command, word...); name == "" {
			name = strings.TrimSpace(string(word))
		}
	}
	return name, command, err
}

// TestHeadIsReadBeforeItsRecords has a change made and confirmed between any two commands of a pipeline: each record is as new as the HEAD
// that was read with it, since HEAD came first.
func TestHeadIsReadBeforeItsRecords(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	direct := open(t, server)
	begin(t, connect(t, direct), fence.NewTerm(1, 10))
	names := []string{direct.testName("a"), direct.testName("b"), direct.testName("c")}
	var changes atomic.Bool
	steps, version := 0, 100 // commands come one at a time
	address := stepwise(t, server, func(command string) {
		if !changes.Load() || command != "HMGET" && command != "GET" {
			return
		}
		steps++
		version++
		change := []rueidis.Completed{direct.client.B().Hset().Key(direct.headKey(0)).FieldValue().
			FieldValue("wc", fence.LSNText(mvcc.LSN(version))).Build()}
		for _, name := range names {
			change = append(change, direct.client.B().Set().Key(name).Value(strconv.Itoa(version)).Build())
		}
		slices.Reverse(change) // HEAD last
		for _, reply := range direct.client.DoMulti(t.Context(), change...) {
			if err := reply.Error(); err != nil {
				t.Error(err)
			}
		}
	})
	s, err := Open(t.Context(), Options{URL: "redis://" + address, Namespace: direct.namespace})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	send := s.lead(t, 0, names[0])
	var others []<-chan outcome
	for i, name := range names[1:] {
		others = append(others, s.inBackground(t.Context(), name))
		s.joined(t, 0, i+2)
	}
	changes.Store(true)
	head, held, err := send(t.Context())
	changes.Store(false)
	got := []outcome{{head, held, err}}
	for _, o := range others {
		got = append(got, <-o)
	}
	for i, o := range got {
		version, err := strconv.ParseUint(string(o.held.Text), 10, 64)
		if o.err != nil || err != nil || version != uint64(o.head.Wc)+uint64(i)+1 {
			t.Errorf("record %d is %q under a HEAD at %d, %v", i, o.held.Text, uint64(o.head.Wc), o.err)
		}
	}
	if steps != 1+len(names) {
		t.Errorf("%d changes came between", steps)
	}
}
