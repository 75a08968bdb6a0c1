package fence

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/mvcc"
)

var update = flag.Bool("update", false, "write what the scenarios answer into their files")

// TestScenarios runs testdata/*.txt. A line is a command, an indented line what it answered; "#" is prose. The commands:
//
//	lease TOKEN for N              fill TOKEN COVERAGE [negative]   release TOKEN     unlink
//	renew TOKEN COVERAGE
//	early XID END [cached]         confirm XID END                  fence XID END     stale            tick N
//	head GEN TERM WC SI            claim TERM                       begin GEN TERM WC SI
//	intent GEN TERM WC HISTORY: WI SI                               advance GEN TERM WC HISTORY: WC [SA]
//	move GEN TERM WC HISTORY: REV  failover HISTORY                 evict            floor COVERAGE
//
// Tokens are one letter, snapshots are as PostgreSQL prints them, a standby's coverage is "@" and a position.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &scenario{t: t, shard: Shard{Replid: "h1"}}
			var out strings.Builder
			for line := range strings.Lines(string(text)) {
				line = strings.TrimRight(line, "\n")
				switch {
				case strings.HasPrefix(line, "  "):
				case line == "" || strings.HasPrefix(line, "#"):
					fmt.Fprintln(&out, line)
				default:
					fmt.Fprintf(&out, "%s\n  %s\n", line, s.run(strings.Fields(strings.ReplaceAll(line, ":", " : "))))
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), out.String()); diff != "" {
				t.Errorf("%s (-file +now; -update writes it):\n%s", file, diff)
			}
		})
	}
}

type scenario struct {
	t     *testing.T
	r     Record
	shard Shard
	now   int64
}

func (s *scenario) token(letter string) Token { return Token(strings.Repeat(letter, 32)) }

func (s *scenario) number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *scenario) position(text string) mvcc.LSN { return mvcc.LSN(s.number(text)) }

func (s *scenario) snapshot(fields []string) mvcc.Snapshot {
	snap, err := mvcc.ParseSnapshot(strings.Join(fields, ""))
	if err != nil {
		s.t.Fatal(err)
	}
	return snap
}

func (s *scenario) coverage(fields []string) Coverage {
	if position, ok := strings.CutPrefix(fields[0], "@"); ok {
		return Coverage{Replay: s.position(position)}
	}
	return Coverage{Snapshot: s.snapshot(fields)}
}

func (s *scenario) expected(f []string) Expected {
	return Expected{Generation: f[0], Term: Term(f[1]), Wc: s.position(f[2]), Replid: f[3]}
}

func (s *scenario) record() string {
	parts := []string{s.r.State.String()}
	if s.r.State != None {
		parts = append(parts, "saw "+s.r.Coverage.Snapshot.String())
		if s.r.Coverage.Standby() {
			parts[1] = fmt.Sprintf("replayed %d", s.r.Coverage.Replay)
		}
	}
	if !s.r.Lease.IsZero() {
		parts = append(parts, fmt.Sprintf("lease %s until %d", s.r.Lease.Token[:1], s.r.Lease.End))
	}
	for _, f := range s.r.Fences {
		parts = append(parts, fmt.Sprintf("fence %d@%d", f.XID, f.End))
	}
	return strings.Join(parts, ", ")
}

func (s *scenario) head() string {
	if !s.shard.Found {
		return "no HEAD"
	}
	h := s.shard.Head
	return fmt.Sprintf("generation %s, term %s, revision %d, Wi %d, Wc %d, Si %s, Sa %s", h.Generation, h.Term, h.Revision, h.Wi, h.Wc, h.Si, h.Sa)
}

func (s *scenario) run(f []string) string {
	switch f[0] {
	case "lease":
		var o LeaseOutcome
		s.r, o = Acquire(s.r, s.token(f[1]), s.now, s.now+s.number(f[3]))
		return fmt.Sprintf("%s: %s", o, s.record())
	case "fill":
		filling := Filling{Token: s.token(f[1]), State: Live}
		if f[len(f)-1] == "negative" {
			filling.State, f = Negative, f[:len(f)-1]
		}
		filling.Coverage = s.coverage(f[2:])
		var o FillOutcome
		s.r, o = Fill(s.r, filling, s.now)
		return fmt.Sprintf("%s: %s", o, s.record())
	case "renew":
		var o FillOutcome
		s.r, o = Renew(s.r, Renewing{Token: s.token(f[1]), Coverage: s.coverage(f[2:])}, s.now)
		return fmt.Sprintf("%s: %s", o, s.record())
	case "release":
		var was bool
		s.r, was = Release(s.r, s.token(f[1]))
		return fmt.Sprintf("%v: %s", was, s.record())
	case "unlink":
		s.r = Unlink(s.r)
		return s.record()
	case "early", "confirm":
		x := Stamp{XID: mvcc.XID(s.number(f[1])), End: s.position(f[2])}
		var o InvalidateOutcome
		if f[0] == "confirm" {
			s.r, o = Confirm(s.r, x, s.now+1)
		} else {
			s.r, o = Early(s.r, x, len(f) == 3, s.now+1)
		}
		return fmt.Sprintf("%s: %s", o, s.record())
	case "fence":
		s.r.Fences = append(s.r.Fences, Stamp{XID: mvcc.XID(s.number(f[1])), End: s.position(f[2])})
		return s.record()
	case "stale":
		s.r.State = Stale
		return s.record()
	case "tick":
		s.now += s.number(f[1])
		return fmt.Sprintf("now %d", s.now)
	case "begin":
		var o HeadOutcome
		wc := s.position(f[3])
		s.shard, o = Begin(s.shard, Head{Generation: f[1], Term: Term(f[2]), Revision: 1, Wi: wc, Wc: wc, Si: s.snapshot(f[4:])})
		return fmt.Sprintf("%s: %s", o, s.head())
	case "claim":
		var o HeadOutcome
		s.shard, o = Claim(s.shard, Term(f[1]))
		return fmt.Sprintf("%s: %s", o, s.head())
	case "intent":
		var o HeadOutcome
		s.shard, o = Intent(s.shard, s.expected(f[1:]), Raise{To: s.position(f[6]), All: true}, s.snapshot(f[7:]))
		return fmt.Sprintf("%s: %s", o, s.head())
	case "advance":
		var (
			o  HeadOutcome
			sa mvcc.Snapshot
		)
		if len(f) > 7 {
			sa = s.snapshot(f[7:])
		}
		s.shard, o = Advance(s.shard, s.expected(f[1:]), s.position(f[6]), sa, Tick{})
		return fmt.Sprintf("%s: %s", o, s.head())
	case "move":
		var o HeadOutcome
		s.shard, o = Move(s.shard, s.expected(f[1:]), uint64(s.number(f[6])), "p")
		return fmt.Sprintf("%s: %s", o, s.head())
	case "failover":
		s.shard.Replid = f[1]
		return s.head()
	case "evict":
		s.shard.Head, s.shard.Found = Head{}, false
		return s.head()
	case "floor":
		if Floor(s.shard.Head, s.coverage(f[1:])) {
			return "may fill"
		}
		return "may not fill"
	}
	s.t.Fatalf("unknown command %q", f[0])
	return ""
}
