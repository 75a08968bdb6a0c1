package redistest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// patience is for what servers do among themselves.
// patience is long: Sentinels that do not agree at once, on a machine with much to do, try again after ten seconds and more.
const patience = time.Minute

// Ask sends one command, over a connection of its own.
func (s *Server) Ask(tb testing.TB, words ...string) rueidis.RedisResult {
	tb.Helper()
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.Addr}, ForceSingleClient: true, DisableCache: true, DisableRetry: true,
	})
	if err != nil {
		tb.Fatalf("%s: %v", strings.Join(words, " "), err)
	}
	defer client.Close()
	return client.Do(ctx, client.B().Arbitrary(words...).Build())
}

// Do is Ask for a command that has to succeed.
func (s *Server) Do(tb testing.TB, words ...string) {
	tb.Helper()
	if err := s.Ask(tb, words...).Error(); err != nil && !rueidis.IsRedisNil(err) {
		tb.Fatalf("%s: %v", strings.Join(words, " "), err)
	}
}

// info is one field of what INFO says about replication.
func (s *Server) info(tb testing.TB, field string) string {
	tb.Helper()
	text, err := s.Ask(tb, "INFO", "replication").ToString()
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == field {
			return value
		}
	}
	return ""
}

// replicaUser is whom replicas are on their master, so that they can be shut out there.
const replicaUser, replicaPassword = "replica", "replica"

// Replica starts a server that follows this one, and returns when it has what this one has.
func (s *Server) Replica(tb testing.TB, args ...string) *Server {
	tb.Helper()
	s.Do(tb, "ACL", "SETUSER", replicaUser, "on", ">"+replicaPassword, "+psync", "+replconf", "+ping")
	host, port, _ := net.SplitHostPort(s.peer())
	r := startFrom(tb, s, localserver.RedisOptions{Args: append([]string{
		"--replicaof", host, port, "--masteruser", replicaUser, "--masterauth", replicaPassword, "--repl-diskless-sync-delay", "0",
	}, args...)})
	// A master of its own one day, it has to know those that follow it then.
	r.Do(tb, "ACL", "SETUSER", replicaUser, "on", ">"+replicaPassword, "+psync", "+replconf", "+ping")
	s.CaughtUp(tb, r)
	return r
}

// CaughtUp waits until the replica has everything that this server has.
func (s *Server) CaughtUp(tb testing.TB, replica *Server) {
	tb.Helper()
	testkit.Eventually(tb, patience, func() error {
		link, has, all := replica.info(tb, "master_link_status"), replica.offset(tb), s.offset(tb)
		if link != "up" || has < all {
			return fmt.Errorf("the replica's link is %s, and it has %d bytes of %d", link, has, all)
		}
		return nil
	})
}

func (s *Server) offset(tb testing.TB) int64 {
	tb.Helper()
	n, err := strconv.ParseInt(s.info(tb, "master_repl_offset"), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// ShutOut ends the connections of the replicas and takes no new ones: they keep what they have, and miss what comes.
func (s *Server) ShutOut(tb testing.TB) {
	tb.Helper()
	s.Do(tb, "ACL", "SETUSER", replicaUser, "off")
	s.Do(tb, "CLIENT", "KILL", "TYPE", "replica")
	testkit.Eventually(tb, patience, func() error {
		if n := s.info(tb, "connected_slaves"); n != "0" {
			return fmt.Errorf("%s replicas are connected", n)
		}
		return nil
	})
}

// Promote makes the replica a master.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	s.Do(tb, "REPLICAOF", "NO", "ONE")
}

// MasterSet is the name under which Sentinels watch a master.
const MasterSet = "shop-cache"

// Sentinels are real ones, which watch one master and promote a replica when it is gone for half a second.
type Sentinels struct {
	Servers []*Server
	URL     string // of the master that they watch
}

// Watch starts Sentinels for this master and returns when they know each other and the replicas.
func (s *Server) Watch(tb testing.TB, number, replicas int, lines ...string) *Sentinels {
	tb.Helper()
	host, port, _ := net.SplitHostPort(s.peer())
	file := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s %[4]d\nsentinel down-after-milliseconds %[1]s 500\n"+
		"sentinel failover-timeout %[1]s 5000\n%[5]s\n", MasterSet, host, port, number/2+1, strings.Join(lines, "\n"))
	w := &Sentinels{}
	for range number {
		w.Servers = append(w.Servers, startFrom(tb, s, localserver.RedisOptions{File: file, Args: []string{"--sentinel"}}))
	}
	others := make([]string, 0, number)
	for _, sentinel := range w.Servers[1:] {
		others = append(others, "addr="+sentinel.peer()+"&")
	}
	w.URL = "redis://" + w.Servers[0].peer() + "/0?" + strings.Join(others, "") + "master_set=" + MasterSet
	if s.secure != nil {
		w.URL = "rediss" + strings.TrimPrefix(w.URL, "redis") + "&" + s.secure.query()
	}
	for _, sentinel := range w.Servers {
		testkit.Eventually(tb, patience, func() error {
			fields, err := sentinel.Ask(tb, "SENTINEL", "MASTER", MasterSet).AsStrMap()
			if err != nil {
				return err
			}
			if fields["num-slaves"] != strconv.Itoa(replicas) || fields["num-other-sentinels"] != strconv.Itoa(number-1) {
				return fmt.Errorf("a sentinel knows %s replicas and %s other sentinels", fields["num-slaves"], fields["num-other-sentinels"])
			}
			return nil
		})
	}
	return w
}

// Failover has the Sentinels promote a replica although the master lives, and waits until they name the server.
func (w *Sentinels) Failover(tb testing.TB, server *Server) {
	tb.Helper()
	testkit.Eventually(tb, patience, func() error { // until it has heard enough of the replicas
		return w.Servers[0].Ask(tb, "SENTINEL", "FAILOVER", MasterSet).Error()
	})
	w.Master(tb, server)
}

// Master waits until the Sentinels name the server as the master.
func (w *Sentinels) Master(tb testing.TB, server *Server) {
	tb.Helper()
	for _, sentinel := range w.Servers {
		testkit.Eventually(tb, patience, func() error {
			at, err := sentinel.Ask(tb, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterSet).AsStrSlice()
			if err != nil {
				return err
			}
			if len(at) != 2 || net.JoinHostPort(at[0], at[1]) != server.peer() {
				return fmt.Errorf("a sentinel names %v as the master, want %s", at, server.peer())
			}
			return nil
		})
	}
}
