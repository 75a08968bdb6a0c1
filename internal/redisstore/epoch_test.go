package redisstore

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

func (s *Store) testEpoch(epoch string) string { return s.prefix() + generation + ":e.v.a" + epoch }

// monitored runs do, and returns the commands that the server has run meanwhile, those of scripts left out: in small letters, with
// their first key.
func monitored(t *testing.T, server *redistest.Server, do func()) (commands []string) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	lines := bufio.NewScanner(conn)
	if _, err := fmt.Fprint(conn, "MONITOR\r\n"); err != nil || !lines.Scan() {
		t.Fatal(err)
	}
	do()
	last, err := net.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = last.Close() }()
	if _, err := fmt.Fprint(last, "ECHO enough\r\n"); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		_, rest, _ := strings.Cut(lines.Text(), "[")
		client, command, _ := strings.Cut(rest, "] ")
		if strings.Contains(command, "enough") {
			return commands
		}
		if !strings.HasSuffix(client, "lua") {
			commands = append(commands, strings.ToLower(command))
		}
	}
	t.Fatal(lines.Err())
	return nil
}

// before checks that a command with one text comes before every one with the other.
func before(t *testing.T, commands []string, first, second string) {
	t.Helper()
	has := func(text string) func(string) bool {
		return func(c string) bool { return strings.Contains(c, text) }
	}
	at, then := slices.IndexFunc(commands, has(first)), slices.IndexFunc(commands, has(second))
	if at < 0 || then < 0 || at > then {
		t.Errorf("%s is not before %s:\n%s", first, second, strings.Join(commands, "\n"))
	}
}

// TestOrderAroundEpochs: HEAD says that an epoch is about to end before it does; a fill has its ids before it reads HEAD; and a
// read that HEAD is to vouch for has HEAD before record and epochs, which are of one moment.
func TestOrderAroundEpochs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 1))
	epochs := []string{s.testEpoch("~0"), s.testEpoch("~0:7")}
	apply := func() {
		if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Epochs: epochs}); err != nil {
			t.Fatal(err)
		}
	}
	apply() // the server knows the scripts then
	before(t, monitored(t, server, apply), s.scripts.intent.digest, `"unlink"`)
	commands := monitored(t, server, func() {
		if _, err := s.Pin(t.Context(), epochs, time.Minute); err != nil {
			t.Fatal(err)
		}
	})
	before(t, commands, `"set" "`+epochs[0], `"hmget"`)
	before(t, commands, `"set" "`+epochs[1], `"hmget"`)
	commands = monitored(t, server, func() {
		if _, _, held, err := s.ReadWithHead(t.Context(), s.testName("k"), epochs); err != nil || held.IDs[0] == "" || held.IDs[0] != held.IDs[1] {
			t.Errorf("read %+v, %v", held, err)
		}
	})
	before(t, commands, `"hmget"`, `"mget"`)
	if len(commands) != 2 {
		t.Errorf("a read is %q", commands)
	}
}

// TestPin: ids that are there stay, those that are made are new each time, also when the pipeline has to be sent again, and HEAD is
// that of the epochs' buckets.
func TestPin(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 1))
	names := []string{s.testEpoch("~0"), s.testEpoch("~0:7"), s.testEpoch("~0:8")}
	pin := func(names ...string) Pinned {
		t.Helper()
		p, err := s.Pin(t.Context(), names, time.Minute)
		if err != nil || !p.HeadFound || p.Head.Generation != generation {
			t.Fatalf("Pin = %+v, %v", p, err)
		}
		for _, id := range p.IDs {
			if !fence.ValidEpochID(id) {
				t.Fatalf("id %q", id)
			}
		}
		return p
	}
	first := pin(names[:2]...)
	if again := pin(names...); again.IDs[0] != first.IDs[0] || again.IDs[1] != first.IDs[1] || again.IDs[2] == first.IDs[0] {
		t.Errorf("ids %q, before %q", again.IDs, first.IDs)
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Epochs: names[:2]})
	if err != nil || result.Ended != 2 || result.Removed != 0 {
		t.Fatalf("Apply = %+v, %v", result, err)
	}
	ids, err := s.Epochs(t.Context(), names)
	if err != nil || ids[0] != "" || ids[1] != "" || ids[2] == "" {
		t.Errorf("Epochs = %q, %v", ids, err)
	}
	p := pin(names...)
	if p.IDs[0] == first.IDs[0] || p.IDs[1] == first.IDs[1] {
		t.Error("an id that was ended is back")
	}
	buckets := func(names ...string) (all []fence.Bucket) {
		for _, name := range names {
			all = append(all, fence.BucketOf(name))
		}
		return all
	}
	loaded := func(x mvcc.XID) fence.Coverage { return fence.Coverage{Snapshot: sees(x)} }
	for _, tt := range []struct {
		names    []string
		coverage fence.Coverage
		want     bool
	}{
		{names[:2], loaded(20), true},
		{names[:2], loaded(19), false},
		{names[1:], loaded(19), false},
		{names[2:], loaded(11), true},
		{names[:1], fence.Coverage{Replay: 199}, false},
		{names[:1], fence.Coverage{Replay: 200}, true},
		{names[2:], fence.Coverage{Replay: 100}, true},
		{names[2:], fence.Coverage{Replay: 99}, false},
		{names[2:], fence.Coverage{}, false},
	} {
		if got := fence.Pinned(p.Head, buckets(tt.names...), tt.coverage); got != tt.want {
			t.Errorf("Pinned(%q, %v) = %t", tt.names, tt.coverage, got)
		}
	}
	if fence.Pinned(fence.Head{}, nil, loaded(100)) {
		t.Error("without HEAD a load may be stored")
	}

	// More epochs than INTENT names buckets: then it is said of all.
	many := make([]string, 3*raisedAtMost)
	for i := range many {
		many[i] = s.testEpoch(fmt.Sprintf("~0:%d", 100+i))
	}
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), Epochs: many}); err != nil {
		t.Fatal(err)
	}
	p = pin(names[2])
	if fence.Pinned(p.Head, buckets(names[2]), loaded(29)) || !fence.Pinned(p.Head, buckets(names[2]), loaded(30)) ||
		fence.Pinned(p.Head, buckets(names[2]), fence.Coverage{Replay: 299}) {
		t.Errorf("HEAD = %+v", p.Head)
	}
}

// TestSweepKnowsEpochs: those of live names stay, those of dead ones go.
func TestSweepKnowsEpochs(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	begin(t, c, fence.NewTerm(1, 1))
	live := []string{s.testEpoch("~0"), s.testEpoch("~0:7"), s.testEpoch("~1+")}
	dead := []string{s.prefix() + generation + ":e.v.b~0", s.prefix() + generation + ":e.v.ab~0", s.prefix() + "00000000000000bb:e.v.a~0:7"}
	for _, name := range slices.Concat(live, dead) {
		if _, err := s.Pin(t.Context(), []string{name}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := s.Sweep(t.Context(), func() Live { return Live{Prefixes: []string{s.testName("")}} })
	if err != nil || removed != int64(len(dead)) {
		t.Errorf("Sweep = %d, %v", removed, err)
	}
	ids, err := s.Epochs(t.Context(), live)
	if err != nil || slices.Contains(ids, "") {
		t.Errorf("of the live ones %q are left, %v", ids, err)
	}
}
