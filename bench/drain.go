package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/mvcc"
	"github.com/jackc/pgx/v5"
)

// drain measures how fast a filled slot is read and applied, against PostgreSQL's own client throwing a copy of the
// same slot away.
func drain(ctx context.Context, b *bench) error {
	s, err := newSubject(ctx, b, "drain", b.sizes.transactions)
	if err != nil {
		return err
	}
	defer s.close()
	many := fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		UPDATE %s SET v = 'changed ' || i, n = n + 1 WHERE id = i; COMMIT; END LOOP; END $$`, b.sizes.transactions, table)
	one := fmt.Sprintf(`UPDATE %s SET v = 'changed ' || id, n = n + 1`, table)
	if err := s.drain(ctx, "many", many); err != nil {
		return fmt.Errorf("many transactions: %w", err)
	}
	if err := s.drain(ctx, "one", one); err != nil {
		return fmt.Errorf("one transaction: %w", err)
	}
	return nil
}

// filled is a slot with changes in it, and how the store looked before them.
type filled struct {
	prefix string
	end    mvcc.LSN // everything before it has to be applied
	idle   float64  // KiB of a follower with nothing to do; 0 where the system does not tell
}

// drain measures one kind of write.
func (s *subject) drain(ctx context.Context, name, write string) error {
	f, err := s.fill(ctx, write)
	if err != nil {
		return err
	}
	var ours, theirs, memory, sender []float64
	// One round that does not count, which leaves the log in the page cache and the servers warm.
	for round := -1; round < s.b.sizes.rounds; round++ {
		slot := fmt.Sprintf("%s_%s_%d", s.slot, name, round+1)
		var (
			us   drained
			them float64
		)
		steps := []func() error{
			func() (err error) { us, err = s.apply(ctx, f, slot+"_a", profilePath(name, round)); return err },
			func() (err error) { them, err = s.discard(ctx, f, slot+"_b"); return err },
		}
		if round%2 != 0 {
			steps[0], steps[1] = steps[1], steps[0]
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		if round < 0 {
			continue
		}
		ours, theirs, memory = append(ours, us.seconds), append(theirs, them), append(memory, us.peak-f.idle)
		sender = append(sender, us.sender/us.seconds)
		s.b.printf("  %-4s round %d: freshet %.3f s, pg_recvlogical %.3f s, %.2f times its rate, peak %.1f MiB above idle\n",
			name, round+1, us.seconds, them, them/us.seconds, (us.peak-f.idle)/1024)
	}
	n := float64(s.b.sizes.transactions)
	s.b.report("drain/"+name+"/freshet", n/median(ours)/1000, "k rows/s")
	s.b.report("drain/"+name+"/pg_recvlogical", n/median(theirs)/1000, "k rows/s")
	s.b.report("drain/"+name+"/rate", median(theirs)/median(ours), "times")
	if quantile(sender, 0) > 0 {
		s.b.report("drain/"+name+"/sender", median(sender), "of freshet's time the server's sender was computing")
	}
	if f.idle > 0 {
		s.b.report("drain/"+name+"/idle", f.idle/1024, "MiB")
	}
	s.b.report("drain/"+name+"/memory", quantile(memory, 1)/1024, "MiB above idle")
	return nil
}

// profilePath names the profile of a round when they are asked for.
func profilePath(name string, round int) string {
	dir := os.Getenv("BENCH_PROFILE")
	if dir == "" {
		return ""
	}
	return fmt.Sprintf("%s/drain_%s_%d.pprof", dir, name, round+1)
}

// fill brings the store and the slot up to date, remembers how the store looks, and writes.
func (s *subject) fill(ctx context.Context, write string) (filled, error) {
	var f filled
	c, err := s.follower(ctx, job{Slot: s.slot})
	if err != nil {
		return f, err
	}
	if err := c.says(ctx, live); err != nil {
		return f, err
	}
	now, err := s.position(ctx)
	if err != nil {
		return f, err
	}
	if err := s.applied(ctx, now); err != nil {
		return f, err
	}
	// Idle is what is left after the start has been forgotten a little.
	if err := pause(ctx, 2*time.Second); err != nil {
		return f, err
	}
	f.idle = c.memory("VmRSS")
	if err := c.stop(); err != nil {
		return f, err
	}
	head, _, err := s.store.Head(ctx)
	if err != nil {
		return f, err
	}
	if err := s.free(ctx, s.slot); err != nil {
		return f, err
	}
	// What the daemon leaves unconfirmed on purpose is none of what is measured.
	if _, err := s.lsn(ctx, `SELECT (pg_replication_slot_advance($1, $2::pg_lsn)).end_lsn::text`, s.slot, head.Wc.String()); err != nil {
		return f, fmt.Errorf("advance the slot: %w", err)
	}
	if err := s.copyKeys(ctx, "f:"+s.namespace+":", "saved:"); err != nil {
		return f, err
	}
	if f.prefix, err = s.prefix(ctx); err != nil {
		return f, err
	}
	if err := s.b.servers.exec(ctx, s.url, write); err != nil {
		return f, err
	}
	if f.end, err = s.position(ctx); err != nil {
		return f, err
	}
	// A last transaction behind the end, whose arrival tells pg_recvlogical to stop.
	return f, s.b.servers.exec(ctx, s.url, `UPDATE `+table+` SET n = n + 1 WHERE id = 1`)
}

// copyKeys copies HEAD and roster under another prefix.
func (s *subject) copyKeys(ctx context.Context, from, to string) error {
	for _, key := range []string{"head", "roster"} {
		command := s.client.B().Copy().Source(from + key).Destination(to + key).Replace().Build()
		if err := s.client.Do(ctx, command).Error(); err != nil {
			return fmt.Errorf("copy %s: %w", key, err)
		}
	}
	return nil
}

// drained is what one drain with freshet took.
type drained struct {
	seconds float64 // from the start of the process to the store's answer to the last deletion
	sender  float64 // seconds that the server's sender computed meanwhile, 0 where the system does not tell
	peak    float64 // KiB of the process
}

// apply drains a copy of the slot with freshet, every row of it being cached. HEAD stands still for 1.25 s after a start,
// while readers may still use older names (D7), so it is only looked at afterwards.
func (s *subject) apply(ctx context.Context, f filled, slot, profile string) (d drained, err error) {
	if err := s.copySlot(ctx, slot); err != nil {
		return d, err
	}
	if err := s.copyKeys(ctx, "saved:", "f:"+s.namespace+":"); err != nil {
		return d, err
	}
	if err := s.cache(ctx, f.prefix, s.b.sizes.transactions); err != nil {
		return d, err
	}
	began := time.Now()
	c, err := s.follower(ctx, job{Slot: slot, Until: s.b.sizes.transactions, Profile: profile})
	if err != nil {
		return d, err
	}
	if err := c.says(ctx, applied); err != nil {
		return d, err
	}
	d.seconds = time.Since(began).Seconds()
	d.peak = c.memory("VmHWM")
	if d.sender, err = s.senderSeconds(ctx, slot); err != nil {
		return d, err
	}
	if err := s.applied(ctx, f.end); err != nil {
		return d, err
	}
	if err := c.stop(); err != nil {
		return d, err
	}
	left, err := s.cached(ctx, f.prefix, s.b.sizes.transactions)
	if err != nil {
		return d, err
	}
	if left != 0 {
		return d, fmt.Errorf("%d of %d rows are still cached", left, s.b.sizes.transactions)
	}
	return d, s.dropSlot(ctx, slot)
}

// senderSeconds is the processor time that the slot's walsender has taken so far. No reader can be done sooner.
func (s *subject) senderSeconds(ctx context.Context, slot string) (float64, error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var pid int
	if err := conn.QueryRow(ctx, `SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&pid); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, nil // not Linux
	}
	// Behind the name, which is in parentheses, the 12th and 13th field are user and system time in hundredths of seconds.
	_, behind, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(behind)
	if len(fields) < 13 {
		return 0, nil
	}
	var ticks float64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return ticks / 100, nil
}

// applied waits until HEAD says that everything up to a position is applied.
func (s *subject) applied(ctx context.Context, end mvcc.LSN) error {
	return until(ctx, 2*time.Minute, "HEAD at "+end.String(), func() (bool, error) {
		head, found, err := s.store.Head(ctx)
		return found && head.Wc >= end, err
	})
}

// discard drains a copy of the slot with pg_recvlogical.
func (s *subject) discard(ctx context.Context, f filled, slot string) (seconds float64, err error) {
	if err := s.copySlot(ctx, slot); err != nil {
		return 0, err
	}
	//nolint:gosec // PostgreSQL's own program
	cmd := exec.CommandContext(ctx, s.b.servers.program("pg_recvlogical"), "--dbname="+s.url, "--slot="+slot, "--start",
		"--no-loop", "--file=/dev/null", "--endpos="+f.end.String(),
		"--option=proto_version=1", "--option=publication_names="+publication)
	var said strings.Builder
	cmd.Stderr = &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("run pg_recvlogical: %w: %s", err, said.String())
	}
	return time.Since(began).Seconds(), s.dropSlot(ctx, slot)
}

func (s *subject) copySlot(ctx context.Context, name string) error {
	_, err := s.lsn(ctx, `SELECT lsn::text FROM pg_copy_logical_replication_slot($1, $2)`, s.slot, name)
	if err != nil {
		return fmt.Errorf("copy the slot: %w", err)
	}
	// Who follows the copy goes on from where the other was: the mark by which crash recovery is noticed is each slot's own.
	if err := s.b.servers.exec(ctx, s.url, fmt.Sprintf(`INSERT INTO freshet.alive SELECT '%s', generation FROM freshet.alive WHERE namespace = '%s'
		ON CONFLICT (namespace) DO UPDATE SET generation = excluded.generation`, pggate.Mark(s.namespace, name), pggate.Mark(s.namespace, s.slot))); err != nil {
		return fmt.Errorf("copy the slot's mark: %w", err)
	}
	return nil
}

// free waits until nobody reads the slot.
func (s *subject) free(ctx context.Context, slot string) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return until(ctx, 20*time.Second, "the slot "+slot+" to be free", func() (free bool, err error) {
		err = conn.QueryRow(ctx, `SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&free)
		return free, err
	})
}

func (s *subject) dropSlot(ctx context.Context, slot string) error {
	if err := s.free(ctx, slot); err != nil {
		return err
	}
	return s.b.servers.exec(ctx, s.url, `SELECT pg_drop_replication_slot('`+slot+`')`)
}

// lsn asks the database for a position.
func (s *subject) lsn(ctx context.Context, query string, args ...any) (mvcc.LSN, error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var text string
	if err := conn.QueryRow(ctx, query, args...).Scan(&text); err != nil {
		return 0, err
	}
	return mvcc.ParseLSN(text)
}
