package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Read reads a record's bytes, nil when it is not there. They are the store's own, and are not to be changed.
func (s *Store) Read(_ context.Context, name string) ([]byte, error) { return s.read(name), nil }

func (s *Store) read(name string) []byte {
	part := s.shardOf(name)
	part.mu.RLock()
	defer part.mu.RUnlock()
	i := part.get(name, s.now())
	if i == nil {
		return nil
	}
	if !i.read.Load() { // mostly it is: readers of one hot key need not write to it
		i.read.Store(true)
	}
	return i.text
}

// ReadTied reads a record and then epochs. A record whose epochs hold now held when it was read: it names their ids, and an id
// that has ended never comes back.
func (s *Store) ReadTied(_ context.Context, name string, epochs []string) (store.Tied, error) {
	return s.readTied(name, epochs), nil
}

func (s *Store) readTied(name string, epochs []string) store.Tied {
	held := store.Tied{Text: s.read(name)}
	for _, epoch := range epochs {
		held.IDs = append(held.IDs, string(s.read(epoch)))
	}
	return held
}

// ReadWithHead reads HEAD and then a record with epochs, in this order, so that what HEAD vouches for is true of the record.
func (s *Store) ReadWithHead(
	ctx context.Context, name string, epochs []string,
) (head fence.Head, found bool, held store.Tied, err error) {
	head, found, err = s.Head(ctx)
	return head, found, s.readTied(name, epochs), err
}

// Epochs reads what epochs hold.
func (s *Store) Epochs(_ context.Context, epochs []string) ([]string, error) {
	var ids []string
	for _, epoch := range epochs {
		ids = append(ids, string(s.read(epoch)))
	}
	return ids, nil
}

// Get reads a record. What is not there is a Record without state.
func (s *Store) Get(_ context.Context, name string) (fence.Record, error) {
	return parse(s.read(name)), nil
}

// parse reads what is stored. What is no record counts as absent, since a LEASE would put one in its place.
func parse(text []byte) fence.Record {
	r, err := fence.ParseRecord(text)
	if err != nil {
		return fence.Record{}
	}
	return r
}

// change does to one key what decide says, in one step: what is stored then, and until when. Who decides sees the store's
// clock, and until when the record was to stay. One that says nothing is removed, and one that is as before stays as it was.
func (s *Store) change(name string, decide func(r fence.Record, now, until int64) (next fence.Record, expires int64)) {
	part := s.shardOf(name)
	part.mu.Lock()
	now := s.now()
	grown := part.expire(now)
	var (
		record  fence.Record
		before  []byte
		expires int64
	)
	old := part.get(name, now)
	if old != nil {
		before, expires = old.text, old.expires
		record = parse(before)
	}
	next, until := decide(record, now, expires)
	switch text := next.Append(nil); {
	case next.Empty():
		if old != nil {
			grown += part.remove(old)
		}
	case old != nil && until == expires && bytes.Equal(text, before):
	case int64(len(text)) > s.size/largest:
		part.evicted++
		if old != nil {
			grown += part.remove(old)
		}
	default:
		grown += part.put(name, slices.Clip(text), until)
	}
	part.mu.Unlock()
	s.grow(part, grown)
}

// grow counts, and makes room where there is none left: in the shard that has grown, so that shards stay as large as each other,
// and in others only when it has nothing else.
func (s *Store) grow(part *shard, by int64) {
	s.used.Add(by)
	if by <= 0 {
		return
	}
	for least, next := 1, 0; s.used.Load() > s.size && next <= shards; {
		part.mu.Lock()
		gone := int64(0)
		if len(part.items) > least {
			gone = part.evict()
		}
		part.mu.Unlock()
		s.used.Add(gone)
		if gone == 0 {
			part, least = &s.shards[next%shards], 0
			next++
		}
	}
}

// Lease asks for the right to fill a key (R2), and reads HEAD after it. The token must be fresh.
func (s *Store) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (store.LeaseReply, error) {
	return s.LeaseOver(ctx, name, "", token, lasts)
}

// LeaseOver is Lease by a reader that has found a value with epochs that do not hold: a granted lease takes it out of the
// record, if it is there still. dead is what fence.EpochsText says of it; empty: nothing was found.
func (s *Store) LeaseOver(
	_ context.Context, name, dead string, token fence.Token, lasts time.Duration,
) (reply store.LeaseReply, err error) {
	s.change(name, func(r fence.Record, now, until int64) (fence.Record, int64) {
		reply.Now = now
		end := now + max(lasts, time.Millisecond).Microseconds()
		next, outcome := fence.AcquireOver(r, dead, token, now, end)
		reply.Granted, reply.Record, reply.Holder = outcome == fence.Granted, next, next.Lease.Token
		switch least := end + store.LeaseMargin.Microseconds(); {
		case !reply.Granted || next.State.Live():
			return next, until
		case next.State.Stale():
			return next, max(until, least) // a stale value is not to take the lease along when its time is over
		default:
			return next, least
		}
	})
	reply.Head, reply.HeadFound = s.vouched()
	reply.Head = reply.Head.For(fence.BucketOf(name))
	reply.Head.Floors, reply.Head.Ended = nil, nil
	return reply, nil
}

// Fill stores a value if the token's lease allows it (R5), and never compresses it: there is no network to save, readers share the bytes that
// are here, and each hit would make a copy to save memory that is bounded anyway.
func (s *Store) Fill(_ context.Context, name string, f store.FillRequest) (outcome fence.FillOutcome, err error) {
	if !f.State.Live() {
		return 0, fmt.Errorf("fill key: a value of state %q cannot be filled", f.State)
	}
	s.change(name, func(r fence.Record, now, until int64) (fence.Record, int64) {
		var next fence.Record
		next, outcome = fence.Fill(r, fence.Filling{
			Token: f.Token, Coverage: f.Coverage, State: f.State, RowVersion: f.RowVersion, Keep: f.Keep.Microseconds(),
			Epochs: f.Epochs, Payload: f.Payload,
		}, now)
		if outcome != fence.Filled {
			return r, until
		}
		if int64(len(next.Append(nil))) > s.size/largest {
			err = fmt.Errorf("fill key: %w: at most %d bytes", store.ErrTooLarge, s.size/largest)
			return r, until
		}
		return next, s.after(f.TTL)
	})
	return outcome, err
}

// Renew is Fill of the value that is stored (R5): if the token's lease allows it, the value has the request's coverage from now
// on.
func (s *Store) Renew(_ context.Context, name string, q store.RenewRequest) (outcome fence.FillOutcome, err error) {
	s.change(name, func(r fence.Record, now, until int64) (fence.Record, int64) {
		var next fence.Record
		next, outcome = fence.Renew(r, fence.Renewing{
			Token: q.Token, Coverage: q.Coverage, RowVersion: q.RowVersion, Keep: q.Keep.Microseconds(), Epochs: q.Epochs,
		}, now)
		if outcome != fence.Renewed {
			return r, until
		}
		return next, s.after(q.TTL)
	})
	return outcome, nil
}

// Release gives a lease back that will not be used, so that the next reader need not wait for its end.
func (s *Store) Release(_ context.Context, name string, token fence.Token) error {
	s.change(name, func(r fence.Record, _, until int64) (fence.Record, int64) {
		next, _ := fence.Release(r, token)
		return next, until
	})
	return nil
}

// Early fences a key for a transaction that is not over yet (D1), and leaves a fence where nothing is stored, and no value
// that lacks the transaction, also none that would be kept.
func (s *Store) Early(_ context.Context, key store.Stamped) error {
	s.stamp(&key, store.FenceLife, func(r fence.Record, x fence.Stamp, _ int64) (fence.Record, fence.InvalidateOutcome) {
		return fence.Early(r, x, true, fence.Gone)
	})
	return nil
}

// early is the daemon's EARLY, which marks what is to be kept.
func (s *Store) early(key *store.Stamped) fence.InvalidateOutcome {
	return s.stamp(key, store.FenceLife, func(r fence.Record, x fence.Stamp, now int64) (fence.Record, fence.InvalidateOutcome) {
		return fence.Early(r, x, true, now)
	})
}

func (s *Store) confirm(key *store.Stamped) fence.InvalidateOutcome {
	return s.stamp(key, store.LeaseMargin, fence.Confirm)
}

// stamp does EARLY or CONFIRM for each transaction that affects a key. Of what they did, that a value was removed counts most,
// and otherwise the last. What holds no value stays until its lease has ended, and for life besides; what is stale for as long as it is kept, and no shorter
// than that.
func (s *Store) stamp(
	key *store.Stamped, life time.Duration, do func(fence.Record, fence.Stamp, int64) (fence.Record, fence.InvalidateOutcome),
) (outcome fence.InvalidateOutcome) {
	s.change(key.Name, func(r fence.Record, now, until int64) (fence.Record, int64) {
		next := r
		for _, x := range key.Stamps {
			var did fence.InvalidateOutcome
			if next, did = do(next, x, now); outcome != fence.Removed {
				outcome = did
			}
		}
		const longest = 24 * time.Hour // no lease is; a record that says so is another's
		least := now + min(max(next.Lease.End-now, 0), longest.Microseconds()) + life.Microseconds()
		switch {
		case bytes.Equal(next.Append(nil), r.Append(nil)):
			return next, until
		case next.State.Stale() && r.State.Live():
			if until = min(until, now+r.Keep); !next.Lease.IsZero() {
				until = max(until, least)
			}
			return next, until
		case next.State != fence.None:
			return next, until
		}
		return next, least
	})
	if outcome == fence.Removed && key.Live != nil {
		*key.Live = true
	}
	return outcome
}

// unlink removes a key, and reports whether it was there.
func (s *Store) unlink(name string) bool {
	part := s.shardOf(name)
	part.mu.Lock()
	now := s.now()
	i := part.get(name, now)
	var grown int64
	if i != nil {
		grown = part.remove(i)
	}
	part.mu.Unlock()
	s.grow(part, grown)
	return i != nil
}

// errEpoch is the error of an epoch's key that holds no id.
var errEpoch = errors.New("the key of an epoch held something else than an id, and was removed")

// Pin reads the ids of epochs, makes those that are not there, and has all of them outlive a value that is stored with life at
// most. HEAD is read after them.
func (s *Store) Pin(_ context.Context, epochs []string, life time.Duration) (store.Pinned, error) {
	p := store.Pinned{IDs: make([]string, len(epochs))}
	own := store.Draw() + store.Draw()
	var wrong []string
	for i, name := range epochs {
		if p.IDs[i] = s.pin(name, own, s.after(life)); !fence.ValidEpochID(p.IDs[i]) {
			s.unlink(name)
			wrong = append(wrong, name)
		}
	}
	if len(wrong) > 0 {
		return store.Pinned{}, fmt.Errorf("pin epochs: %w: %s", errEpoch, strings.Join(wrong, ", "))
	}
	p.Head, p.HeadFound = s.vouched()
	return p, nil
}

// pin is the id of an epoch: its own, or the one given.
func (s *Store) pin(name, own string, until int64) string {
	part := s.shardOf(name)
	part.mu.Lock()
	now := s.now()
	grown := part.expire(now)
	id := []byte(own)
	if i := part.get(name, now); i != nil {
		id, until = i.text, max(until, i.expires)
	}
	grown += part.put(name, id, until)
	part.mu.Unlock()
	s.grow(part, grown)
	return string(id)
}
