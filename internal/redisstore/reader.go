package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Read reads a record's bytes with one plain GET, nil when it is not there.
func (s *Store) Read(ctx context.Context, name string) ([]byte, error) {
	to, err := s.to(name)
	if err != nil {
		return nil, fmt.Errorf("get record: %w", err)
	}
	text, err := textOf(to.client.Do(ctx, s.readPlain(name)))
	if err != nil {
		return nil, fmt.Errorf("get record: %w", to.typed(err))
	}
	return text, nil
}

// ReadUnder is Read, or with epochs ReadTied, for a hit under names that were confirmed. A reader that is alone has a connection to itself.
func (s *Store) ReadUnder(ctx context.Context, name string, epochs []string, under *store.Under) (Tied, error) {
	if s.lone != nil {
		defer s.lone.leave()
		if s.lone.come() {
			if held, ok, err := s.lone.read(ctx, name, epochs, under); ok || err != nil {
				if err != nil {
					err = fmt.Errorf("get record: %w", err)
				}
				return held, err
			}
		}
	}
	if len(epochs) > 0 {
		return s.ReadTied(ctx, name, epochs)
	}
	text, err := s.Read(ctx, name)
	return Tied{Text: text}, err
}

// readPlain is a GET. The client's own works out the key's cluster slot, which is most of what sending it costs and of no use with
// one server.
func (s *Store) readPlain(name string) rueidis.Completed {
	return s.client.B().Arbitrary("GET").Args(name).ReadOnly()
}

// Get reads a record with one plain GET. What is not there is a Record without state; so is what is not in freshet's
// layout, since a LEASE would put a record in its place.
func (s *Store) Get(ctx context.Context, name string) (fence.Record, error) {
	text, err := s.Read(ctx, name)
	if err != nil || text == nil {
		return fence.Record{}, err
	}
	r, err := fence.ParseRecord(text)
	if err != nil {
		return fence.Record{}, nil //nolint:nilerr // see above
	}
	return r, nil
}

// Lease asks for the right to fill a key (R2) and reads HEAD after it. The token must be fresh: after an error it is
// not used again.
func (s *Store) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (LeaseReply, error) {
	return s.LeaseOver(ctx, name, "", token, lasts)
}

// LeaseOver is Lease by a reader that has found a value with epochs that do not hold: a granted lease takes it out of the
// record, if it is there still. dead is what fence.EpochsText says of it; empty: nothing was found.
func (s *Store) LeaseOver(ctx context.Context, name, dead string, token fence.Token, lasts time.Duration) (LeaseReply, error) {
	to, err := s.to(name)
	if err != nil {
		return LeaseReply{}, fmt.Errorf("lease key: %w", err)
	}
	args := []string{string(token), millis(lasts), millis(leaseMargin)}
	if dead != "" {
		args = append(args, dead)
	}
	bucket := fence.BucketOf(name)
	fields := s.headFields(append(headFields(), bucket.Field()))
	replies := to.client.DoMulti(ctx, s.call(s.scripts.lease, name, args), s.headFor(to.lane, fields, s.callRead))
	switch {
	case isNoScript(replies[0].Error()):
		replies = to.client.DoMulti(ctx, s.send(s.scripts.lease, name, args), s.headFor(to.lane, fields, s.sendRead))
	case isNoScript(replies[1].Error()): // of a lane: the lease is granted, or not, and HEAD read after it
		replies[1] = to.client.Do(ctx, s.headFor(to.lane, fields, s.sendRead))
	}
	reply, err := parseLease(&to, replies[0])
	if err != nil {
		return LeaseReply{}, err
	}
	if reply.Head, reply.HeadFound, err = parseHead(replies[1], fields); err != nil {
		_ = to.typed(replies[1].Error())
		return LeaseReply{}, fmt.Errorf("lease key: %w", err)
	}
	reply.Head = reply.Head.For(bucket)
	return reply, nil
}

// parseLease reads the answer to a LEASE, without HEAD.
func parseLease(to *route, answered rueidis.RedisResult) (reply LeaseReply, err error) {
	answer, err := answered.ToArray()
	if err != nil {
		return LeaseReply{}, fmt.Errorf("lease key: %w", to.typed(err))
	}
	if len(answer) != 3 {
		return LeaseReply{}, fmt.Errorf("lease key: answer of %d parts: %w", len(answer), ErrRefused)
	}
	granted, err := answer[0].AsInt64()
	if err != nil {
		return LeaseReply{}, fmt.Errorf("lease key: %w", typed(err))
	}
	text, err := answer[1].AsBytes()
	if err != nil {
		return LeaseReply{}, fmt.Errorf("lease key: %w", typed(err))
	}
	if reply.Record, err = leasedRecord(text); err != nil {
		return LeaseReply{}, fmt.Errorf("lease key: %w", err)
	}
	if reply.Now, err = clock(answer[2]); err != nil {
		return LeaseReply{}, fmt.Errorf("lease key: %w", err)
	}
	reply.Granted, reply.Holder = granted == 1, reply.Record.Lease.Token
	return reply, nil
}

// Fill stores a value if the token's lease allows it (R5). A repeat could do no harm: a fill uses its lease up.
func (s *Store) Fill(ctx context.Context, name string, f FillRequest) (fence.FillOutcome, error) {
	outcome, _, err := s.fill(ctx, name, f)
	return outcome, err
}

func (s *Store) fill(ctx context.Context, name string, f FillRequest) (fence.FillOutcome, int64, error) {
	args, err := fillArgs(&f)
	if err != nil {
		return 0, 0, err
	}
	reply, err := s.eval(ctx, s.scripts.fill, name, args)
	if err != nil {
		return 0, 0, fmt.Errorf("fill key: %w", err)
	}
	return fillOutcome("fill key", reply)
}

// fillArgs are those of the script.
func fillArgs(f *FillRequest) ([]string, error) {
	if !f.State.Live() {
		return nil, fmt.Errorf("fill key: a value of state %q cannot be filled", f.State)
	}
	payload, flag := pack(f)
	args := []string{
		string(f.Token), f.Coverage.String(), string(rune(f.State.Letter())), fence.EscapeVersion(f.RowVersion),
		rueidis.BinaryString(payload), millis(f.TTL), fence.KeepText(f.Keep.Microseconds()), flag,
	}
	if len(f.Epochs) > 0 {
		args = append(args, fence.EpochsText(f.Epochs))
	}
	return args, nil
}

// Release gives a lease back that will not be used, so that the next reader need not wait for its end.
func (s *Store) Release(ctx context.Context, name string, token fence.Token) error {
	_, err := s.release(ctx, name, token)
	return err
}

func (s *Store) release(ctx context.Context, name string, token fence.Token) (bool, error) {
	args := []string{string(token)}
	reply, err := s.eval(ctx, s.scripts.release, name, args)
	if err != nil {
		return false, fmt.Errorf("release lease: %w", err)
	}
	n, err := reply.AsInt64()
	if err != nil {
		return false, fmt.Errorf("release lease: %w", typed(err))
	}
	return n == 1, nil
}

// Early fences a key for a transaction that is not over yet (D1): nothing that does not contain it can be filled, as long
// as the fence lives, and no value is left that does not, also none that would be kept. A writer who does not know where its
// COMMIT will end gives the highest position there is.
func (s *Store) Early(ctx context.Context, key Stamped) error {
	args := stampArgs(&key, millis(fenceLife), "2")
	if _, err := s.eval(ctx, s.scripts.early, key.Name, args); err != nil {
		return fmt.Errorf("fence early: %w", err)
	}
	return nil
}

// eval calls a script on a key where it is, by its text when the server does not know the digest. Its error is typed.
func (s *Store) eval(ctx context.Context, c script, key string, args []string) (rueidis.RedisResult, error) {
	to, err := s.to(key)
	if err != nil {
		return rueidis.RedisResult{}, err
	}
	reply := to.client.Do(ctx, s.call(c, key, args))
	if isNoScript(reply.Error()) {
		reply = to.client.Do(ctx, s.send(c, key, args))
	}
	return reply, to.typed(reply.Error())
}

func rosterText(reply rueidis.RedisResult) (text []byte, found bool, err error) {
	text, err = reply.AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read roster: %w", typed(err))
	}
	return text, true, nil
}

// headFields are those that a reader judges by.
func headFields() []string {
	return []string{"gen", "term", "rev", "sys", "tl", "wi", "si", "wc", "sa", "tick"}
}

// wholeHead are all fields but the floors of buckets.
func wholeHead() []string { return append(headFields(), "pub", "st", "lt") }

// vouchedFields are those by which it is judged what HEAD says of a value that was read after it.
func vouchedFields() []string { return []string{"gen", "rev", "sys", "tl", "si", "wc", "sa", "tick"} }

func (s *Store) readHead(lane int, fields []string) rueidis.Completed {
	return s.client.B().Hmget().Key(s.headKey(lane)).Field(fields...).Build()
}

// headFields are fields of HEAD, and in a cluster the lane's generation with them.
func (s *Store) headFields(fields []string) []string {
	if s.lanes > 1 {
		fields = append(fields, "lane")
	}
	return fields
}

// headFor reads HEAD in one pipeline with a record. In a cluster a script does, which tells whether it is one.
func (s *Store) headFor(lane int, fields []string, call func(c script, keys, args []string) rueidis.Completed) rueidis.Completed {
	if s.lanes == 1 {
		return s.readHead(lane, fields)
	}
	return call(s.scripts.look, s.headKeys(lane), fields)
}

func parseHead(reply rueidis.RedisResult, names []string) (fence.Head, bool, error) {
	fields, err := fieldsOf(reply, names)
	if err != nil {
		return fence.Head{}, false, err
	}
	return parseFields(fields)
}

// field is one that HEAD has.
type field struct{ name, text string }

// fieldsOf are those of the named fields that HEAD has, in that order. A script that finds no HEAD answers none at all.
func fieldsOf(reply rueidis.RedisResult, names []string) ([]field, error) {
	values, err := reply.ToArray()
	if err != nil {
		return nil, fmt.Errorf("read head: %w", typed(err))
	}
	fields := make([]field, 0, len(names))
	for i, name := range names[:min(len(names), len(values))] {
		text, err := values[i].ToString()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read head: %w", typed(err))
		}
		fields = append(fields, field{name: name, text: text})
	}
	return fields, nil
}

func parseFields(fields []field) (h fence.Head, found bool, err error) {
	for _, f := range fields {
		if err := h.SetField(f.name, f.text); err != nil {
			return fence.Head{}, false, fmt.Errorf("read head: %w", err)
		}
	}
	return h, h.Generation != "", nil
}

func (s *Store) call(c script, key string, args []string) rueidis.Completed {
	return s.client.B().Evalsha().Sha1(c.digest).Numkeys(1).Key(key).Arg(args...).Build()
}

func (s *Store) send(c script, key string, args []string) rueidis.Completed {
	return s.client.B().Eval().Script(c.text).Numkeys(1).Key(key).Arg(args...).Build()
}

func isNoScript(err error) bool { return errors.Is(typed(err), ErrNoScript) }

func millis(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }

func clock(m rueidis.RedisMessage) (int64, error) {
	text, err := m.ToString()
	if err != nil {
		return 0, typed(err)
	}
	n, err := strconv.ParseInt(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("clock %q: %w", text, ErrRefused)
	}
	return n, nil
}
