package pgsource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

var errDrained = errors.New("drained")

// drainSink counts, until the stream has come to its end.
type drainSink struct {
	end  change.Position
	rows int
}

func (s *drainSink) Begin(context.Context, change.Begin) error { return nil }

func (s *drainSink) Row(context.Context, *change.Row) error {
	s.rows++
	return nil
}
func (s *drainSink) Truncate(context.Context, *change.Truncate) error { return nil }
func (s *drainSink) Message(context.Context, *change.Message) error   { return nil }

func (s *drainSink) Commit(_ context.Context, c change.Commit) error { return s.reached(c.Position) }

func (s *drainSink) Idle(_ context.Context, p change.Position) error { return s.reached(p) }

func (s *drainSink) reached(p change.Position) error {
	if p >= s.end {
		return errDrained
	}
	return nil
}

// BenchmarkDrain reads a full slot to its end, and has pg_recvlogical read a copy of it. Beside the rate it reports
// the processor time of reader and server together, which says more on a machine that is busy.
func BenchmarkDrain(b *testing.B) {
	const rows = 100_000
	loads := []struct{ name, statement string }{
		{"small transactions", fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP INSERT INTO t VALUES (i, 'some text'); COMMIT; END LOOP; END $$`, rows)},
		{"one transaction", fmt.Sprintf(`INSERT INTO t SELECT i, 'some text' FROM generate_series(1, %d) i`, rows)},
	}
	for _, load := range loads {
		server := pgtest.Start(b, pgtest.Options{Settings: map[string]string{"synchronous_commit": "off", "max_wal_size": "4GB"}})
		url := server.Database(b)
		conn, err := pgx.Connect(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		ask := func(statement string, args ...any) string {
			var answer *string
			if err := conn.QueryRow(b.Context(), statement, args...).Scan(&answer); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				b.Fatalf("%s: %v", statement, err)
			}
			if answer == nil {
				return ""
			}
			return *answer
		}
		ask(`CREATE TABLE t (id int PRIMARY KEY, v text)`)
		if _, err := Prepare(b.Context(), conn, PrepareOptions{
			Slot: "full", Publication: "p", Tables: []schema.Name{{Schema: "public", Name: "t"}},
		}); err != nil {
			b.Fatal(err)
		}
		ask(load.statement)
		ask(`SELECT pg_logical_emit_message(true, 'end', '')::text`)
		ask(`SELECT pg_switch_wal()::text`) // flushes
		end, err := mvcc.ParseLSN(ask(`SELECT pg_current_wal_flush_lsn()::text`))
		if err != nil {
			b.Fatal(err)
		}
		var copies atomic.Int64
		copySlot := func() string {
			name := fmt.Sprintf("copy_%d", copies.Add(1))
			ask(`SELECT lsn::text FROM pg_copy_logical_replication_slot('full', $1)`, name)
			return name
		}
		drop := func(slot string) { ask(`SELECT pg_drop_replication_slot($1)::text`, slot) }
		report := func(b *testing.B, rounds int, cpu time.Duration) {
			b.Helper()
			b.ReportMetric(float64(cpu.Microseconds())/float64(rounds*rows), "cpu-µs/row")
			b.ReportMetric(float64(rounds*rows)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(0, "ns/op")
		}
		b.Run(load.name+"/stream", func(b *testing.B) {
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				slot := copySlot()
				cpu -= ownTime(b) + serverTime(b, server)
				b.StartTimer()
				s, err := Start(b.Context(), Options{URL: url, Slot: slot, Publication: "p"}, 0)
				if err != nil {
					b.Fatal(err)
				}
				sink := &drainSink{end: change.Position(end)}
				if err := s.Run(b.Context(), sink); !errors.Is(err, errDrained) || sink.rows != rows {
					b.Fatalf("%d rows, %v", sink.rows, err)
				}
				b.StopTimer()
				if err := s.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
				drop(slot)
				cpu += ownTime(b) + serverTime(b, server)
				b.StartTimer()
			}
			report(b, b.N, cpu)
		})
		b.Run(load.name+"/pg_recvlogical", func(b *testing.B) {
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				slot := copySlot()
				cpu -= serverTime(b, server)
				b.StartTimer()
				c := recvlogical(b.Context(), server, "--dbname="+url, "--slot="+slot, "--start", "--no-loop", "--file=/dev/null",
					"--endpos="+end.String(), "--option=proto_version=1", "--option=publication_names=p", "--option=messages=true")
				if out, err := c.CombinedOutput(); err != nil {
					b.Fatalf("pg_recvlogical: %v: %s", err, out)
				}
				b.StopTimer()
				drop(slot)
				cpu += c.ProcessState.UserTime() + c.ProcessState.SystemTime() + serverTime(b, server)
				b.StartTimer()
			}
			report(b, b.N, cpu)
		})
		if err := conn.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func recvlogical(ctx context.Context, server *pgtest.Server, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(server.Bin, "pg_recvlogical"), args...)
}

// ownTime is the processor time of this process.
func ownTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// serverTime is the processor time of the server's processes that have ended, the walsender among them; 0 where there
// is no /proc.
func serverTime(b *testing.B, server *pgtest.Server) time.Duration {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), server.URL("postgres")) // by then the server has seen the others end
	if err != nil {
		b.Fatal(err)
	}
	if err := conn.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(server.Dir, "data", "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/" + strings.Fields(string(pid))[0] + "/stat")
	if err != nil {
		return 0
	}
	const childrenUser, childrenSystem = 16 - 3, 17 - 3 // proc(5) counts from 1, and the first two fields are cut off
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, i := range []int{childrenUser, childrenSystem} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // of which Linux counts 100 in a second
}
