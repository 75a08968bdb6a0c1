package system

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
)

// readerVariable makes this test binary a service that reads a hot key through the library, by the configuration that
// it names.
const readerVariable = "FRESHET_TEST_READER"

const (
	loadTime    = 20 * time.Millisecond
	goroutines  = 4
	hotProducts = "  hot: {key: \"hot:{id}\", l1: off, depends_on: [{table: products, key: \"{id}\"}]}\n"
)

// Two services share a cache, and read one key all the time while it is written; loading it takes 20 ms. Whoever begins
// to read after the store has a change gets it, in either process. What a process holds in its own memory may be a message late, and is left out.
func TestHotKeyInTwoProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hotProducts, products, rows)
	d := w.serve("daemon")
	w.live(d)
	readers := []*service{w.service(), w.service()}
	conn := w.connect()

	const writes = 20
	var fresh []committed
	for n := 1; n <= writes; n++ {
		w.exec(conn, "UPDATE products SET price = $1 WHERE id = 1", n)
		end, err := lsn(t.Context(), conn, "SELECT pg_current_wal_flush_lsn()::text")
		if err != nil {
			t.Fatal(err)
		}
		w.applied(end)
		fresh = append(fresh, committed{price: int64(n), applied: time.Now().UnixNano()})
		// Every third write finds the reload of the one before under way, the others find hits.
		if n%3 != 0 {
			timer := time.NewTimer(6 * loadTime)
			<-timer.C
		}
	}
	for i, r := range readers {
		reads, stats := r.stop()
		if len(reads) == 0 {
			t.Fatalf("service %d read nothing", i)
		}
		stale, next := 0, 0
		for _, read := range reads { // in the order in which they began
			for next < len(fresh) && fresh[next].applied < read.began {
				next++
			}
			if next > 0 && read.price < fresh[next-1].price {
				stale++
				if stale <= 3 {
					t.Errorf("service %d: price %d was read %v after the store had %d", i, read.price,
						time.Duration(read.began-fresh[next-1].applied), fresh[next-1].price)
				}
			}
		}
		if last := reads[len(reads)-1].price; last != writes {
			t.Errorf("service %d: the last price read is %d, want %d", i, last, writes)
		}
		t.Logf("service %d: %d reads, %d stale; %s", i, len(reads), stale, stats)
		var hits, loads int
		if _, err := fmt.Sscanf(stats, "hits %d loads %d", &hits, &loads); err != nil {
			t.Errorf("service %d: %q: %v", i, stats, err)
		}
		// The cache is of use: far more hits than loads, although every write drops the value.
		if hits < 10*loads || loads == 0 {
			t.Errorf("service %d: %d hits, %d loads", i, hits, loads)
		}
	}
}

// committed is a price, and when the store is known to have had the change, by the machine's clock.
type committed struct {
	price, applied int64
}

// hotRead is one read: when it began, by the machine's clock, and what it got.
type hotRead struct {
	began, price int64
}

// service is a process that reads.
type service struct {
	w      *world
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
}

func (w *world) service() *service {
	w.t.Helper()
	s := &service{w: w, cmd: exec.CommandContext(w.t.Context(), os.Args[0])}
	s.cmd.Env = append(os.Environ(), readerVariable+"="+w.file, "DATABASE_URL="+w.url)
	s.cmd.Stderr = os.Stderr
	stdout, err := s.cmd.StdoutPipe()
	if err == nil {
		s.stdin, err = s.cmd.StdinPipe()
	}
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	s.stdout = bufio.NewScanner(stdout)
	if !s.stdout.Scan() || s.stdout.Text() != "reading" {
		w.t.Fatalf("the service says %q", s.stdout.Text())
	}
	return s
}

// stop has the service end and returns what it read.
func (s *service) stop() (reads []hotRead, stats string) {
	s.w.t.Helper()
	if err := s.stdin.Close(); err != nil {
		s.w.t.Fatal(err)
	}
	for s.stdout.Scan() {
		var r hotRead
		if _, err := fmt.Sscanf(s.stdout.Text(), "%d %d", &r.began, &r.price); err == nil {
			reads = append(reads, r)
		} else {
			stats = s.stdout.Text()
		}
	}
	if err := s.cmd.Wait(); err != nil {
		s.w.t.Fatalf("service: %v", err)
	}
	return reads, stats
}

// hotReader is the service: it reads until its input ends, and then prints what each read got.
func hotReader(file string) int {
	if err := readHot(context.Background(), file); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		return 1
	}
	return 0
}

func readHot(ctx context.Context, file string) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	cache, err := freshet.Open(ctx, freshet.Options{Config: file, Database: pool})
	if err != nil {
		return err
	}
	defer cache.Close()
	hot, err := freshet.Entry(cache, "hot", freshet.Load(func(ctx context.Context, q freshet.Querier, id int64) (int64, error) {
		var price int64
		if err := q.QueryRow(ctx, "SELECT price FROM products WHERE id = $1", id).Scan(&price); err != nil {
			return 0, err
		}
		timer := time.NewTimer(loadTime)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return price, nil
	}))
	if err != nil {
		return err
	}
	if _, err := hot.Get(ctx, 1); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, "reading"); err != nil {
		return err
	}
	var (
		stop    atomic.Bool
		working sync.WaitGroup
		reads   [goroutines][]hotRead
		errs    [goroutines]error
	)
	for n := range goroutines {
		working.Go(func() {
			for !stop.Load() && errs[n] == nil {
				r := hotRead{began: time.Now().UnixNano()}
				if r.price, errs[n] = hot.Get(ctx, 1); errs[n] == nil {
					reads[n] = append(reads[n], r)
				}
			}
		})
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	working.Wait()
	if err := errors.Join(append(errs[:], err)...); err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	all := slices.Concat(reads[:]...)
	slices.SortFunc(all, func(a, b hotRead) int { return cmp.Compare(a.began, b.began) })
	for _, r := range all {
		_, _ = fmt.Fprintf(out, "%d %d\n", r.began, r.price)
	}
	stats := cache.Stats()
	_, _ = fmt.Fprintf(out, "hits %d loads %d fills %d refused %v\n", stats.Hits, stats.Loads, stats.Fills, stats.Refused)
	return out.Flush() // has the error of whatever could not be written
}
