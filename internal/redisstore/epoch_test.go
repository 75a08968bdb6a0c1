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
