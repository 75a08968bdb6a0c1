package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// namesPerUnlink names go into one UNLINK: enough that the command's own cost does not matter, few enough that the
// server does not pause for one.
const namesPerUnlink = 500

// What is under way before replies are read.
const (
	unlinksPerPipeline = 128
	keysPerPipeline    = 512
)

// fenceLife is how long a fence is kept that belongs to no value and no lease. It spares loads that would miss the
// transaction; nothing rests on it.
const fenceLife = 5 * time.Second

// Conn is the daemon's one connection. After anything but an answer from the server it is broken for good: a new
// connection could be to a server that never saw what went over this one. It is used by one goroutine at a time.
type Conn struct {
	store  *Store
	client rueidis.DedicatedClient
	replid string
	broken atomic.Pointer[error]
	known  map[string]bool // digests of the scripts that the server has answered under
}

// Connect opens a Conn.
func (s *Store) Connect(ctx context.Context) (*Conn, error) {
	client, err := s.dedicate()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &Conn{store: s, client: client, known: map[string]bool{}}
	if err := c.Ping(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() {
	c.end(fmt.Errorf("%w: connection closed", ErrUnavailable))
}

// end breaks the connection, for the reason that came first.
func (c *Conn) end(reason error) {
	if c.broken.CompareAndSwap(nil, &reason) {
		c.client.Close()
	}
}

// Ping asks the server for a sign of life.
func (c *Conn) Ping(ctx context.Context) error {
	_, err := c.do(ctx, []rueidis.Completed{c.client.B().Ping().Build()})
	return err
}

// Replid is the name of the server's history that the last Claim or NewGeneration found.
func (c *Conn) Replid() string { return c.replid }

// do sends commands in one pipeline and checks every reply. It returns the first error there is; one that is not a
// server's answer breaks the connection.
func (c *Conn) do(ctx context.Context, commands []rueidis.Completed) ([]rueidis.RedisResult, error) {
	if err := c.broken.Load(); err != nil {
		return nil, *err
	}
	if _, bounded := ctx.Deadline(); !bounded && ctx.Err() == nil {
		// Under a context that never ends, or has a deadline, the client writes and reads right here, for replyTimeout at
		// most. Under any other it hands every command to goroutines of its own, and each step of a batch waits for two of
		// them to be woken. A deadline of our own would cost a timer.
		ctx = context.WithoutCancel(ctx)
	}
	replies := c.client.DoMulti(ctx, commands...)
	var first error
	for _, r := range replies {
		if err := r.NonRedisError(); err != nil {
			// The client would go on with the connection after a cancelled call. We do not: a command of unknown fate
			// is in it.
			broken := fmt.Errorf("connection is broken: %w", typed(err))
			c.end(broken)
			return nil, broken
		}
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) && first == nil {
			first = typed(err)
		}
	}
	return replies, first
}

// eval calls a script: by its text the first time, by its digest from then on.
func (c *Conn) eval(s script, key string, args ...string) rueidis.Completed {
	if c.known[s.digest] {
		return c.client.B().Evalsha().Sha1(s.digest).Numkeys(1).Key(key).Arg(args...).Build()
	}
	return c.client.B().Eval().Script(s.text).Numkeys(1).Key(key).Arg(args...).Build()
}

// run sends the commands that build makes, which call scripts. A server that has forgotten one (SCRIPT FLUSH) gets all
// of them once more, with the texts: they may be done twice, and those behind the missing one may not count as done after it.
func (c *Conn) run(ctx context.Context, scripts []script, build func() []rueidis.Completed) ([]rueidis.RedisResult, error) {
	replies, err := c.do(ctx, build())
	if errors.Is(err, ErrNoScript) {
		clear(c.known)
		replies, err = c.do(ctx, build())
	}
	if err == nil {
		for _, s := range scripts {
			c.known[s.digest] = true
		}
	}
	return replies, err
}

// headReply is what every script on HEAD answers.
type headReply struct {
	outcome fence.HeadOutcome
	replid  string
	head    fence.Head
	found   bool
}

func parseHeadReply(r rueidis.RedisResult) (headReply, error) {
	parts, err := r.AsStrSlice()
	if err != nil {
		return headReply{}, typed(err)
	}
	if len(parts) < 2 || len(parts)%2 != 0 {
		return headReply{}, fmt.Errorf("answer of %d parts: %w", len(parts), ErrRefused)
	}
	reply := headReply{replid: parts[1]}
	switch parts[0] {
	case fence.Applied.String():
		reply.outcome = fence.Applied
	case fence.Mismatch.String():
		reply.outcome = fence.Mismatch
	case fence.Superseded.String():
		reply.outcome = fence.Superseded
	default:
		return headReply{}, fmt.Errorf("answer %q: %w", parts[0], ErrRefused)
	}
	for i := 2; i < len(parts); i += 2 {
		if err := reply.head.SetField(parts[i], parts[i+1]); err != nil {
			return headReply{}, err
		}
	}
	reply.found = reply.head.Generation != ""
	return reply, nil
}

func (r headReply) err() error {
	switch r.outcome {
	case fence.Applied:
		return nil
	case fence.Superseded:
		return ErrSuperseded
	case fence.Mismatch:
	}
	return &MismatchError{Head: r.head, Found: r.found, Replid: r.replid}
}

// head calls a script on HEAD.
func (c *Conn) head(ctx context.Context, verb string, s script, args ...string) (headReply, error) {
	replies, err := c.run(ctx, []script{s}, func() []rueidis.Completed {
		return []rueidis.Completed{c.eval(s, c.store.headKey(), args...)}
	})
	if err != nil {
		return headReply{}, fmt.Errorf("%s: %w", verb, err)
	}
	reply, err := parseHeadReply(replies[0])
	if err != nil {
		return headReply{}, fmt.Errorf("%s: %w", verb, err)
	}
	return reply, nil
}

// Claim makes the store obey term, and reads HEAD in the same step. It fails with ErrSuperseded when a later daemon
// was there. Where there is no HEAD nothing is claimed: the daemon begins a generation.
func (c *Conn) Claim(ctx context.Context, term fence.Term) (fence.Head, bool, error) {
	reply, err := c.head(ctx, "claim head", c.store.scripts.claim, string(term))
	if err != nil {
		return fence.Head{}, false, err
	}
	if reply.outcome == fence.Superseded {
		return reply.head, true, fmt.Errorf("claim head: %w", ErrSuperseded)
	}
	if reply.replid == "" {
		return fence.Head{}, false, fmt.Errorf("claim head: %w", ErrNoHistory)
	}
	c.replid = reply.replid
	return reply.head, reply.found, nil
}

// NewGeneration writes HEAD whole. Nothing that was stored under the old generation is read any more.
func (c *Conn) NewGeneration(ctx context.Context, head fence.Head) error {
	return c.begin(ctx, head, "")
}

// Replace is NewGeneration over a HEAD whose term, foreign, is not of this history of the database. The roster goes as
// well, whose term would refuse the next one.
func (c *Conn) Replace(ctx context.Context, head fence.Head, foreign fence.Term) error {
	if err := c.begin(ctx, head, foreign); err != nil {
		return err
	}
	if _, err := c.do(ctx, []rueidis.Completed{c.client.B().Unlink().Key(c.store.rosterKey()).Build()}); err != nil {
		return fmt.Errorf("remove the roster of another history: %w", err)
	}
	return nil
}

func (c *Conn) begin(ctx context.Context, head fence.Head, foreign fence.Term) error {
	args := append([]string{string(head.Term), string(foreign)}, head.Fields()...)
	reply, err := c.head(ctx, "begin generation", c.store.scripts.begin, args...)
	if err != nil {
		return err
	}
	if err := reply.err(); err != nil {
		return fmt.Errorf("begin generation: %w", err)
	}
	c.replid = reply.replid
	return nil
}

// Expected is what the daemon believes HEAD to say. The replication id is the one that this connection found when it
// claimed.
type Expected struct {
	Generation string
	Term       fence.Term
	Wc         mvcc.LSN
}

func (c *Conn) expected(e Expected) []string {
	return []string{e.Generation, string(e.Term), fence.LSNText(e.Wc), c.replid}
}

// Batch is what one round of the daemon does to the store.
type Batch struct {
	Expect  Expected
	Wi      mvcc.LSN      // at or after the end of every transaction in the batch: where the floors of the names' buckets rise to
	All     bool          // the floors of all buckets rise
	Si      mvcc.Snapshot // the gate's: sees every transaction in the batch
	Names   []string      // keys to confirm by UNLINK
	Keys    []Stamped     // keys to confirm by script
	Advance mvcc.LSN      // the new Wc, 0 for none
	Sa      mvcc.Snapshot // the new Sa, zero for none; only with Advance, which may be the old Wc
	Tick    fence.Tick    // read before Sa was taken
}

// raisedAtMost bounds what one INTENT writes: a batch with keys in more buckets raises the floors of all.
const raisedAtMost = 256

// raise is whose floors the batch raises.
func (b *Batch) raise() raise {
	all, some := raise{To: b.Wi, All: true}, raise{To: b.Wi}
	if b.All {
		return all
	}
	var seen [fence.Buckets]bool
	add := func(name string) (fits bool) {
		if bucket := fence.BucketOf(name); !seen[bucket] {
			seen[bucket] = true
			some.Buckets = append(some.Buckets, bucket)
		}
		return len(some.Buckets) <= raisedAtMost
	}
	for _, name := range b.Names {
		if !add(name) {
			return all
		}
	}
	for i := range b.Keys {
		if !add(b.Keys[i].Name) {
			return all
		}
	}
	return some
}

type raise fence.Raise

// fields are the names of the floors among HEAD's fields.
func (r raise) fields() []string {
	if r.All {
		return []string{"wi"}
	}
	fields := make([]string, len(r.Buckets))
	for i, b := range r.Buckets {
		fields[i] = b.Field()
	}
	return fields
}

// Stamped is a key and the transactions that affect it.
type Stamped struct {
	Name   string
	Stamps []fence.Stamp
}

// args are those of the scripts that take stamps, behind the given ones.
func (k *Stamped) args(first ...string) []string {
	for _, x := range k.Stamps {
		first = append(first, fence.XIDText(x.XID), fence.LSNText(x.End))
	}
	return first
}

// Result is what was found and done.
type Result struct {
	Removed int64      // records that were unlinked, and live values that were removed from theirs
	Kept    int64      // live values that contain what was to be confirmed
	Tick    fence.Tick // the readers' count, as it was during Apply
}

// Early fences keys for transactions that may not be visible yet (D1), and leaves a fence where nothing is stored.
func (c *Conn) Early(ctx context.Context, keys []Stamped) (Result, error) {
	var result Result
	early := c.store.scripts.early
	replies, err := c.run(ctx, []script{early}, func() []rueidis.Completed {
		commands := make([]rueidis.Completed, len(keys))
		for i := range keys {
			commands[i] = c.eval(early, keys[i].Name, keys[i].args(millis(fenceLife), "1")...)
		}
		return commands
	})
	if err == nil {
		err = result.add(replies)
	}
	if err != nil {
		return result, fmt.Errorf("fence early: %w", err)
	}
	return result, nil
}

// Apply does a batch: INTENT, then the keys are confirmed, then ADVANCE, in this order on this connection. An error
// means that nothing may be counted as confirmed; what was removed nevertheless does no harm.
func (c *Conn) Apply(ctx context.Context, b Batch) (Result, error) {
	var result Result
	expected := c.expected(b.Expect)
	intent := slices.Concat(expected, []string{fence.LSNText(b.Wi), fence.SnapshotText(b.Si)}, b.raise().fields())
	names, keys := b.Names, b.Keys
	for first := true; first || len(names) > 0 || len(keys) > 0; first = false {
		some := min(len(names), namesPerUnlink*unlinksPerPipeline)
		few := min(len(keys), keysPerPipeline)
		replies, err := c.confirm(ctx, first, intent, names[:some], keys[:few])
		if err == nil && first {
			var h headReply
			if h, err = parseHeadReply(replies[0]); err == nil {
				err = h.err()
			}
			if err == nil {
				result.Tick, err = parseTick(replies[1])
			}
			replies = replies[2:]
		}
		if err == nil {
			err = result.add(replies)
		}
		if err != nil {
			return result, fmt.Errorf("apply batch: %w", err)
		}
		names, keys = names[some:], keys[few:]
	}
	if b.Advance == 0 {
		return result, nil
	}
	// Not in the same pipeline: a server that refuses the UNLINK (its access control may) would still advance, and what
	// was not deleted would count as confirmed.
	advance := slices.Concat(expected, []string{fence.LSNText(b.Advance), fence.SnapshotText(b.Sa), b.Tick.String()})
	reply, err := c.head(ctx, "advance head", c.store.scripts.advance, advance...)
	if err == nil {
		err = reply.err()
	}
	if err != nil {
		return result, fmt.Errorf("apply batch: %w", err)
	}
	return result, nil
}

// confirm sends one pipeline of a batch: INTENT and the reading of the tick in the first one, and confirms.
func (c *Conn) confirm(ctx context.Context, first bool, intent, names []string, keys []Stamped) ([]rueidis.RedisResult, error) {
	var called []script
	if first {
		called = append(called, c.store.scripts.intent)
	}
	if len(keys) > 0 {
		called = append(called, c.store.scripts.confirm)
	}
	return c.run(ctx, called, func() []rueidis.Completed {
		commands := make([]rueidis.Completed, 0, len(names)/namesPerUnlink+len(keys)+3)
		if first {
			commands = append(commands, c.eval(c.store.scripts.intent, c.store.headKey(), intent...), c.readTick())
		}
		for some := range slices.Chunk(names, namesPerUnlink) {
			commands = append(commands, c.client.B().Unlink().Key(some...).Build())
		}
		for i := range keys {
			commands = append(commands, c.eval(c.store.scripts.confirm, keys[i].Name, keys[i].args(millis(leaseMargin))...))
		}
		return commands
	})
}

// add counts what EARLY, CONFIRM and UNLINK answered.
func (r *Result) add(replies []rueidis.RedisResult) error {
	for _, reply := range replies {
		message, err := reply.ToMessage()
		if err != nil {
			return typed(err)
		}
		if message.IsInt64() {
			n, err := message.AsInt64()
			if err != nil {
				return typed(err)
			}
			r.Removed += n
			continue
		}
		outcome, err := message.ToString()
		if err != nil {
			return typed(err)
		}
		switch outcome {
		case fence.Removed.String():
			r.Removed++
		case fence.Kept.String():
			r.Kept++
		case fence.Absent.String(), fence.Fenced.String():
		default:
			return fmt.Errorf("answer %q: %w", outcome, ErrRefused)
		}
	}
	return nil
}

// ErrRevision says that the store has a roster of a higher revision: an earlier move was not finished. The caller
// draws a higher one.
var ErrRevision = errors.New("a roster of a higher revision is stored")

// Move publishes a roster: first the roster itself, then HEAD's revision, by which readers take it up. Between the two
// readers find them different and go to the database. Processes that have the old roster go on for a moment; to wait
// for them is the caller's part (D7).
func (c *Conn) Move(ctx context.Context, e Expected, roster []byte, revision uint64, publication string) error {
	expected := c.expected(e)
	head := func(revision string) error {
		reply, err := c.head(ctx, "move roster", c.store.scripts.moved, slices.Concat(expected, []string{revision, publication})...)
		if err != nil {
			return err
		}
		if err := reply.err(); err != nil {
			return fmt.Errorf("move roster: %w", err)
		}
		return nil
	}
	if err := head(""); err != nil { // compared first, so that a daemon that was superseded leaves the roster alone
		return err
	}
	write := c.store.scripts.roster
	replies, err := c.run(ctx, []script{write}, func() []rueidis.Completed {
		return []rueidis.Completed{c.eval(write, c.store.rosterKey(),
			rueidis.BinaryString(roster), e.Generation, string(e.Term), strconv.FormatUint(revision, 10))}
	})
	if err != nil {
		return fmt.Errorf("move roster: %w", err)
	}
	outcome, err := replies[0].ToString()
	if err != nil {
		return fmt.Errorf("move roster: %w", typed(err))
	}
	switch outcome {
	case fence.Applied.String():
	case fence.Superseded.String():
		return fmt.Errorf("move roster: %w", ErrSuperseded)
	default:
		return fmt.Errorf("move roster: revision %d: %w", revision, ErrRevision)
	}
	return head(fence.RevisionText(revision))
}
