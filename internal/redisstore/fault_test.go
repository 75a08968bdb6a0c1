package redisstore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

func TestOpenNeedsNoServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Stop(t)
	s := open(t, server)
	if _, err := s.Get(t.Context(), s.testName("k")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Get without a server = %v", err)
	}
	if _, err := s.Lease(t.Context(), s.testName("k"), token('a'), time.Minute); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Lease without a server = %v", err)
	}
	if _, err := s.Connect(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Connect without a server = %v", err)
	}
	server.Start(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		_, err := s.Get(t.Context(), s.testName("k"))
		return err
	})
	begin(t, connect(t, s), fence.NewTerm(1, 10))
	leased(t, s, s.testName("k"), token('b'))
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, url, namespace, want string }{
		{"scheme", "http://localhost", "n", "scheme"},
		{"cluster and database", "redis://a/3?addr=b:6379", "n", "database"},
		{"empty namespace", "redis://localhost", "", "namespace"},
		{"hash tag", "redis://localhost", "a{b}", "namespace"},
		{"part of another", "redis://localhost", "a:b", "namespace"},
		{"pattern", "redis://localhost", "a*", "namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(t.Context(), Options{URL: tt.url, Namespace: tt.namespace})
			if err == nil {
				s.Close()
				t.Fatal("Open succeeds")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open = %v, want %q in it", err, tt.want)
			}
		})
	}
	_, err := Open(t.Context(), Options{URL: "http://user:secret@host:bad", Namespace: "n"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Open with a bad address = %v", err)
	}
}

// A Conn whose server went away stays broken, also when the server is back: what it had sent may be lost.
func TestConnNeverBecomesAnother(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	server.Kill(t)
	server.Start(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		_, err := s.Get(t.Context(), "k")
		return err
	})
	for range 3 {
		if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Ping over the old connection = %v", err)
		}
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Apply over the old connection = %v", err)
		}
	}
	// Restarted empty: HEAD is gone, and nothing is claimed, so that the daemon begins a generation.
	again := connect(t, s)
	if h, found, err := again.Claim(t.Context(), fence.NewTerm(1, 10)); err != nil || found {
		t.Fatalf("Claim after a restart without data = %+v, %v, %v", h, found, err)
	}
	begin(t, again, fence.NewTerm(1, 10))
}

// The same when the server alone cuts the connection, as a load balancer or CLIENT KILL does.
func TestConnIsCut(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	if err := s.client.Do(t.Context(), s.client.B().ClientKill().TypeNormal().SkipmeYes().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Apply over a cut connection = %v", err)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Ping over a cut connection = %v", err)
	}
	if h, _, err := s.Head(t.Context()); err != nil || h.Wc != 100 {
		t.Fatalf("HEAD = %+v, %v", h, err)
	}
}

func TestFlushAllLeavesNoHead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	server.FlushAll(t)
	if reply := leased(t, s, s.testName("k"), token('a')); reply.HeadFound || fence.Floor(reply.Head, fence.Coverage{Snapshot: sees(1 << 60)}) {
		t.Fatalf("Lease without HEAD = %+v: it must not let anyone fill", reply)
	}
	_, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200})
	var mismatch *MismatchError
	if !errors.As(err, &mismatch) || mismatch.Found {
		t.Fatalf("Apply without HEAD = %v", err)
	}
}

// T8, T18: the old master had a lease removed, the new one never heard of it. The lease still fills there, and what
// finds it is the comparison of HEAD on the new master.
func TestFailover(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	namespace := redistest.Namespace(t)
	before, after := openNamespace(t, master, namespace), openNamespace(t, replica, namespace)
	command := func(s *Store, parts ...string) {
		t.Helper()
		if err := s.client.Do(t.Context(), s.client.B().Arbitrary(parts...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, before)
	head := begin(t, c, fence.NewTerm(1, 10))
	name := before.testName("k")
	leased(t, before, name, token('a'))
	testkit.Eventually(t, 20*time.Second, func() error {
		r, err := after.Get(t.Context(), name)
		if err == nil && r.Lease.IsZero() {
			err = errors.New("the replica has no lease yet")
		}
		return err
	})

	// A replica that is written to by mistake says so, and nothing is applied.
	wrong := connect(t, after)
	if _, _, err := wrong.Claim(t.Context(), fence.NewTerm(1, 11)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Claim on a replica = %v", err)
	}
	if _, err := wrong.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Apply on a replica = %v", err)
	}
	if _, err := after.Lease(t.Context(), name, token('b'), time.Minute); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Lease on a replica = %v", err)
	}
	if _, err := after.Fill(t.Context(), name, FillRequest{Token: token('a'), State: fence.Live, TTL: time.Minute}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Fill on a replica = %v", err)
	}

	// The replica is cut off, the master goes on, the replica is promoted: it has a prefix of the master's history.
	command(after, "REPLICAOF", "NO", "ONE")
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200}); err != nil {
		t.Fatal(err)
	}
	if got := filled(t, after, name, token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill under the lost confirm = %v: the test does not show what it is about", got)
	}

	next := connect(t, after)
	got, found, err := next.Claim(t.Context(), head.Term)
	if err != nil || !found || got.Wc != 100 {
		t.Fatalf("Claim on the new master = %+v, %v, %v; want the old Wc", got, found, err)
	}
	if next.Replid() == c.Replid() {
		t.Error("the replication id did not change with the promotion")
	}
	head.Wc = 200
	var mismatch *MismatchError
	_, err = next.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), Advance: 300})
	if !errors.As(err, &mismatch) || !mismatch.Found || mismatch.Head.Wc != 100 {
		t.Fatalf("Apply in the belief of the old master = %v", err)
	}
	// T18: even where Wc is as expected, a history of another name is not the one that the confirms went to.
	head.Wc = 100
	next.lanes[0].replid = c.Replid()
	if _, err = next.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), Advance: 300}); !errors.As(err, &mismatch) {
		t.Fatalf("Apply in the belief of the old history = %v", err)
	}
	next.lanes[0].replid = mismatch.Replid
	result, err := next.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200})
	if err != nil || result.Removed != 1 {
		t.Fatalf("redelivery = %+v, %v; want the stale value removed", result, err)
	}
}

// T32: behind a commit that hangs another one is confirmed, and nothing advances. The new master never heard of that confirm.
// An INTENT that compared nothing would have the daemon take that history for its own, and pass the lost confirm with the next
// ADVANCE.
func TestIntentComparesTheHistory(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
	namespace := redistest.Namespace(t)
	before, after := openNamespace(t, master, namespace), openNamespace(t, replica, namespace)
	c := connect(t, before)
	head := begin(t, c, fence.NewTerm(1, 10))
	passes, hangs := before.testName("passes"), before.testName("hangs")
	leased(t, before, passes, token('a'))
	if got := filled(t, before, passes, token('a'), 10); got != fence.Filled {
		t.Fatalf("Fill = %v", got)
	}
	stale := func() error {
		r, err := after.Get(t.Context(), passes)
		if err == nil && !r.State.Live() {
			err = errors.New("the new master does not have the value")
		}
		return err
	}
	testkit.Eventually(t, 20*time.Second, stale)
	if err := after.client.Do(t.Context(), after.client.B().Arbitrary("REPLICAOF", "NO", "ONE").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	// Transaction 20, which ends at 300, is visible; 15, which ends at 200, hangs.
	late := mvcc.Snapshot{Xmin: 15, Xmax: 21, Xip: []mvcc.XID{15}}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: late, Names: []string{passes}}); err != nil {
		t.Fatal(err)
	}

	// Now 15 is visible as well, and the daemon goes on where its connection leads, in the belief of the old history.
	next := connect(t, after)
	next.lanes[0].replid = c.lanes[0].replid
	rest := Batch{Expect: expect(head), Wi: 300, Si: sees(21), Names: []string{hangs}, Advance: 300}
	var mismatch *MismatchError
	// A batch that does not move Wc, since a commit hangs or names have just moved, has only INTENT to notice it by.
	still := Batch{Expect: expect(head), Wi: 300, Si: late, Names: []string{hangs}}
	if _, err := next.Apply(t.Context(), still); !errors.As(err, &mismatch) {
		t.Fatalf("Apply without an advance, in the belief of the old history = %v", err)
	}
	if now, _, err := after.Head(t.Context()); err != nil || now.Wi != head.Wi || !now.Si.Dominates(head.Si) || !head.Si.Dominates(now.Si) {
		t.Fatalf("HEAD is %+v, %v: INTENT was written into another history", now, err)
	}
	if _, err := next.Apply(t.Context(), rest); !errors.As(err, &mismatch) {
		t.Fatalf("Apply in the belief of the old history = %v", err)
	}
	if now, _, err := after.Head(t.Context()); err != nil || now.Wc != head.Wc {
		t.Fatalf("HEAD is %+v, %v, want it where it was", now, err)
	}
	// Had it taken the name from the answer to INTENT, and gone on:
	next.lanes[0].replid = mismatch.Replid
	if _, err := next.Apply(t.Context(), rest); err != nil {
		t.Fatal(err)
	}
	if now, _, err := after.Head(t.Context()); err != nil || now.Wc != 300 || stale() != nil {
		t.Errorf("HEAD is %+v, %v, and the value: %v; this test shows nothing", now, err, stale())
	}
}

// T29: a full server still takes what makes it fresh, and refuses what would fill it.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory-policy", "noeviction")
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	name := s.testName("k")
	leased(t, s, name, token('a'))
	filled(t, s, name, token('a'), 10)
	leased(t, s, s.testName("held"), token('b'))
	if err := s.client.Do(t.Context(), s.client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lease(t.Context(), s.testName("more"), token('c'), time.Minute); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("Lease on a full server = %v", err)
	}
	if _, err := s.Fill(t.Context(), s.testName("held"), FillRequest{
		Token: token('b'), Coverage: fence.Coverage{Snapshot: sees(20)}, State: fence.Live, TTL: time.Minute,
	}); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("Fill on a full server = %v", err)
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Names: []string{name}, Advance: 200, Sa: sees(20)})
	if err != nil || result.Removed != 1 {
		t.Errorf("Apply on a full server = %+v, %v", result, err)
	}
	head.Wc = 200
	if err := c.Move(t.Context(), expect(head), []byte("{}"), 2, "q"); err != nil {
		t.Errorf("Move on a full server: %v", err)
	}
	if _, _, err := c.Claim(t.Context(), fence.NewTerm(1, 11)); err != nil {
		t.Errorf("Claim on a full server: %v", err)
	}
	head.Term = fence.NewTerm(1, 11)
	if err := c.NewGeneration(t.Context(), head); err != nil {
		t.Errorf("NewGeneration on a full server: %v", err)
	}
	if err := s.Release(t.Context(), s.testName("held"), token('b')); err != nil {
		t.Errorf("Release on a full server: %v", err)
	}
}

func TestNoPermission(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := open(t, server)
	if err := admin.client.Do(t.Context(), admin.client.B().Arbitrary("ACL", "SETUSER", "reader", "on", ">pw", "~f:*", "+@connection", "+get").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{URL: strings.Replace(server.URL, "redis://", "redis://reader:pw@", 1), Namespace: admin.namespace})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), s.testName("k")); err != nil {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.Lease(t.Context(), s.testName("k"), token('a'), time.Minute); !errors.Is(err, ErrNoPermission) {
		t.Errorf("Lease = %v", err)
	}
	bad, err := Open(t.Context(), Options{URL: strings.Replace(server.URL, "redis://", "redis://reader:wrong@", 1), Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	if _, err := bad.Get(t.Context(), "k"); !errors.Is(err, ErrNoPermission) {
		t.Errorf("Get with a wrong password = %v", err)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"))
	i, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i.Role != "master" || i.MaxMemory != 100<<20 || i.MaxMemoryPolicy != "allkeys-lru" || i.UsedMemory == 0 || len(i.Replid) != 40 {
		t.Errorf("Info = %+v", i)
	}
	if why := i.Supported(false); why != "" {
		t.Errorf("Supported of the tests' own server = %q", why)
	}
	tests := []struct {
		text string
		want string
	}{
		{"redis_version:6.2.14\r\nredis_mode:standalone\r\n", "too old"},
		{"redis_version:7.0.0\r\nredis_mode:standalone\r\n", ""},
		{"redis_version:8.2.1\r\nredis_mode:standalone\r\n", ""},
		{"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.5\r\nserver_mode:standalone\r\n", ""},
		{"redis_version:7.2.4\r\nvalkey_version:9.0.0\r\nserver_mode:standalone\r\n", ""},
		{"redis_version:7.2.4\r\nvalkey_version:7.1.0\r\nserver_mode:standalone\r\n", "too old"},
		{"redis_version:7.2.4\r\nredis_mode:cluster\r\n", "Redis Cluster"},
		{"redis_version:7.2.4\r\nredis_mode:sentinel\r\n", "master_set"},
		{"redis_version:unstable\r\n", "cannot be read"},
	}
	for _, tt := range tests {
		got := parseInfo(tt.text).Supported(false)
		if got == "" != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("Supported(%q) = %q, want %q in it", tt.text, got, tt.want)
		}
	}
}

// A batch's cancelled context breaks the connection: what was under way may or may not have been done.
func TestCancelledApplyBreaksTheConn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var logs bytes.Buffer
	s, err := Open(t.Context(), Options{URL: server.URL, Namespace: "n", Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	if err := s.client.Do(t.Context(), s.client.B().Arbitrary("CLIENT", "PAUSE", "300", "ALL").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextFor(t, 50*time.Millisecond)
	defer cancel()
	if _, err := c.Apply(ctx, Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 200}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Apply to a paused server = %v", err)
	}
	if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Ping after it = %v", err)
	}
}

// The client must not repeat a LEASE by itself: see Open.
func TestNothingIsRepeated(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	leased(t, s, s.testName("k"), token('a'))
	calls := func() string {
		text, err := s.client.Do(t.Context(), s.client.B().Info().Section("commandstats").Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		var eval []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "cmdstat_eval") {
				count, _, _ := strings.Cut(line, ",")
				eval = append(eval, count)
			}
		}
		return fmt.Sprint(eval)
	}
	before := calls()
	if err := s.client.Do(t.Context(), s.client.B().Arbitrary("CLIENT", "PAUSE", "200", "ALL").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	// Sent while the server does not answer, and given up.
	ctx, cancel := contextFor(t, 20*time.Millisecond)
	defer cancel()
	if _, err := s.Lease(ctx, s.testName("j"), token('b'), time.Minute); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Lease at a paused server = %v", err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		if after := calls(); after == before {
			return errors.New("the lease is not there yet")
		}
		return nil
	})
	if after := calls(); strings.Count(after, "calls=") != 2 || !strings.Contains(after, "cmdstat_evalsha:calls=2") || !strings.Contains(after, "cmdstat_eval:calls=1") {
		t.Errorf("script calls = %s, want one more EVALSHA than %s", after, before)
	}
}
