package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// writerDies is step b: the process that writes is killed after its COMMIT and before its DEL.
func (s *stage) writerDies(ctx context.Context, step *Step) error {
	const id, rounding = 7, 50 * time.Millisecond // Redis rounds a TTL, and its clock is another
	plain := plainProducts(s.client, s.pool, plainTTL)
	if err := plain.Forget(ctx, id); err != nil {
		return err
	}
	old, err := plain.Get(ctx, id, nil)
	if err != nil {
		return err
	}
	var killed time.Time
	var left time.Duration
	seen, err := freshReads(ctx, s.priceReaders(id), func(ctx context.Context) (string, time.Time, error) {
		price, committed, err := s.killWriter(ctx, id)
		if err != nil {
			return "", time.Time{}, err
		}
		killed = time.Now()
		left, err = plain.Left(ctx, id)
		return price, committed, err
	})
	if err != nil {
		return err
	}
	s.say("the writer was killed between COMMIT and DEL; its cached price has %s to live: watching both", short(left))
	watch, err := s.watchBoth(ctx, plain, id, old)
	if err != nil {
		return err
	}
	stale := watch.lastStale.Sub(killed)
	fresh := max(seen[0].after, seen[1].after)
	step.Plain = fmt.Sprintf("stale for %s after the kill, until the end of its TTL", short(stale))
	step.Freshet = fmt.Sprintf("fresh in %s, and in all %d reads since", short(fresh), watch.reads)
	step.Measured = fmt.Sprintf("TTL left at the kill %s; COMMIT to fresh %s", short(left), short(fresh))
	step.milliseconds("plain_ttl_left_ms", left)
	step.milliseconds("plain_stale_for_ms", stale)
	step.milliseconds("gateway_ms", seen[0].after)
	step.milliseconds("library_ms", seen[1].after)
	step.count("plain_stale_reads", watch.stale)
	step.count("reads_watched", watch.reads)
	step.count("stale_again", watch.back+seen[0].back+seen[1].back)
	step.require(left > 0, "the cache-aside code's value was gone right after the kill: the DEL came before it")
	step.require(watch.stale > 0, "the cache-aside code was never stale")
	step.require(!watch.fresh.IsZero(), "the cache-aside code was still stale %s after the end of its TTL", short(plainTTL))
	step.require(watch.fresh.IsZero() || watch.fresh.Sub(killed) >= left-rounding,
		"the cache-aside code was fresh %s after the kill, although its value had %s left", short(watch.fresh.Sub(killed)), short(left))
	step.require(watch.back+seen[0].back+seen[1].back == 0, "%d of freshet's reads returned the old price after a fresh one",
		watch.back+seen[0].back+seen[1].back)
	return nil
}

// killWriter has the plain writer change the price and kills it when COMMIT has returned.
func (s *stage) killWriter(ctx context.Context, id int64) (price string, committed time.Time, err error) {
	if price, err = nextPrice(s.ledger.last(productRow(id))); err != nil {
		return "", time.Time{}, err
	}
	var writer *child
	committed, err = s.ledger.write(productRow(id), price, func() error {
		output := newLineWatch(committedLine)
		writer, err = startChild(ctx, output, s.options.Executable, "demo", PlainWriterCommand,
			"--database", s.postgres.URL(database), "--redis", s.redis.URL(), "--id", strconv.FormatInt(id, 10), "--price", price)
		if err != nil {
			return err
		}
		select {
		case <-output.seen:
			return nil
		case <-writer.done:
			return fmt.Errorf("the writer ended before it was killed (%w): %s", writer.err, output.text())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if writer != nil {
		err = errors.Join(err, writer.kill())
	}
	return price, committed, err
}

// PlainWriterCommand is the hidden command of the demo that runs PlainWrite.
const PlainWriterCommand = "plain-writer"

type watched struct {
	lastStale time.Time
	stale     int       // reads of the plain code that were
	fresh     time.Time // when the plain code was; zero: never
	reads     int       // of freshet
	back      int       // of them, old
}

// watchBoth reads through the plain code and through freshet until the former is fresh.
func (s *stage) watchBoth(ctx context.Context, plain *cacheAside, id int64, old string) (watched, error) {
	const pause = 20 * time.Millisecond
	w := watched{lastStale: time.Now()}
	want := s.ledger.last(productRow(id))
	for end := time.Now().Add(2 * plainTTL); time.Now().Before(end); {
		for _, r := range s.priceReaders(id) {
			price, err := r.read(ctx)
			if err != nil {
				return w, fmt.Errorf("read through the %s: %w", r.name, err)
			}
			w.reads++
			if price != want {
				w.back++
			}
		}
		cached, err := plain.Get(ctx, id, nil)
		if err != nil {
			return w, err
		}
		if cached != old {
			w.fresh = time.Now()
			return w, nil
		}
		w.lastStale = time.Now()
		w.stale++
		if !rest(ctx, pause) {
			return w, context.Cause(ctx)
		}
	}
	return w, nil
}

// lineWatch keeps what a process writes and tells when a line was among it.
type lineWatch struct {
	line string
	seen chan struct{}

	mu   sync.Mutex
	all  bytes.Buffer
	once sync.Once
}

func newLineWatch(line string) *lineWatch { return &lineWatch{line: line, seen: make(chan struct{})} }

func (w *lineWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(p)
	if strings.HasPrefix(w.all.String(), w.line+"\n") || strings.Contains(w.all.String(), "\n"+w.line+"\n") {
		w.once.Do(func() { close(w.seen) })
	}
	return len(p), nil
}

func (w *lineWatch) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}
