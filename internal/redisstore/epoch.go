package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// ReadTied reads a record together with epochs of its lane: in one command, so all of it is of one moment.
func (s *Store) ReadTied(ctx context.Context, name string, epochs []string) (Tied, error) {
	to, err := s.to(name)
	if err != nil {
		return Tied{}, fmt.Errorf("get record: %w", err)
	}
	held, err := parseTied(to.client.Do(ctx, s.readTied(name, epochs)), len(epochs))
	if err != nil {
		return Tied{}, fmt.Errorf("get record: %w", to.typed(err))
	}
	return held, nil
}

func (s *Store) readTied(name string, epochs []string) rueidis.Completed {
	return s.client.B().Arbitrary("MGET").Args(name).Args(epochs...).ReadOnly()
}

func parseTied(reply rueidis.RedisResult, epochs int) (Tied, error) {
	values, err := reply.ToArray()
	if err != nil {
		return Tied{}, err
	}
	if len(values) != 1+epochs {
		return Tied{}, fmt.Errorf("answer of %d parts: %w", len(values), ErrRefused)
	}
	held := Tied{IDs: make([]string, epochs)}
	if held.Text, err = values[0].AsBytes(); err != nil && !rueidis.IsRedisNil(err) {
		return Tied{}, err
	}
	held.Text = unpack(held.Text)
	for i := range held.IDs {
		if held.IDs[i], err = values[1+i].ToString(); err != nil && !rueidis.IsRedisNil(err) {
			return Tied{}, err
		}
	}
	return held, nil
}

// Epochs reads what epochs of one lane hold.
func (s *Store) Epochs(ctx context.Context, epochs []string) ([]string, error) {
	if len(epochs) == 0 {
		return nil, nil
	}
	held, err := s.ReadTied(ctx, epochs[0], epochs[1:])
	if err != nil {
		return nil, err
	}
	return append([]string{string(held.Text)}, held.IDs...), nil
}

// errEpoch is the error of an epoch's key that holds no id.
var errEpoch = errors.New("the key of an epoch held something else than an id, and was removed")

// Pin reads the ids of epochs of one lane, makes those that are not there, and has all of them outlive a value that is stored
// with life at most. An id that this makes was never used before: should the pipeline have to be sent again, an epoch may have
// been ended in between, so it is drawn anew.
func (s *Store) Pin(ctx context.Context, epochs []string, life time.Duration) (Pinned, error) {
	to, err := s.to(epochs[0])
	if err != nil {
		return Pinned{}, fmt.Errorf("pin epochs: %w", err)
	}
	fields := append(pinFields(), "st")
	for _, name := range epochs {
		b := fence.BucketOf(name)
		fields = append(fields, b.Field(), b.EndedField())
	}
	fields = s.headFields(fields)
	pin := func(call func(c script, keys, args []string) rueidis.Completed) (string, []rueidis.RedisResult) {
		own := store.Draw() + store.Draw()
		return own, to.client.DoMulti(ctx, append(s.pin(epochs, own, life), s.headFor(to.lane, fields, call))...)
	}
	own, replies := pin(s.callRead)
	head := replies[len(replies)-1]
	if isNoScript(head.Error()) {
		own, replies = pin(s.sendRead)
		head = replies[len(replies)-1]
	}
	var p Pinned
	var wrong, short []string
	if p.IDs, wrong, short, err = pinnedIDs(&to, epochs, own, life, replies); err != nil {
		return Pinned{}, err
	}
	if len(wrong) > 0 {
		return Pinned{}, s.unpin(ctx, &to, wrong)
	}
	if p.Head, p.HeadFound, err = parseHead(head, fields); err != nil {
		return Pinned{}, fmt.Errorf("pin epochs: %w", to.typed(err))
	}
	return p, s.prolong(ctx, &to, short, life)
}

// longevity is how many times as long as the value that it is made for an epoch lives. Until what is left is too little for another value
// its end is not put off: a key whose end is put off has changed, and whoever holds a value that is tied to it in memory drops it.
const longevity = 2

// pin are the commands that read the ids of epochs and how long they will live, and make those that are not there.
func (s *Store) pin(epochs []string, own string, life time.Duration) []rueidis.Completed {
	commands := make([]rueidis.Completed, 0, 2*len(epochs)+1)
	for _, name := range epochs {
		commands = append(commands,
			s.client.B().Set().Key(name).Value(own).Nx().Get().PxMilliseconds(longevity*life.Milliseconds()).Build(),
			s.client.B().Pttl().Key(name).Build())
	}
	return commands
}

// pinnedIDs are the ids in the replies to pin, of which there may be more. wrong are the names that hold something else, short those that
// do not live for long enough.
func pinnedIDs(to *route, epochs []string, own string, life time.Duration, replies []rueidis.RedisResult) (ids, wrong, short []string, err error) {
	ids = make([]string, len(epochs))
	for i, name := range epochs {
		id, err := replies[2*i].ToString()
		switch {
		case rueidis.IsRedisNil(err):
			id = own
		case isWrongType(err), err == nil && !fence.ValidEpochID(id):
			wrong = append(wrong, name)
		case err != nil:
			return nil, nil, nil, fmt.Errorf("pin epochs: %w", to.typed(err))
		}
		left, err := replies[2*i+1].AsInt64()
		switch {
		case err == nil && (left < 0 || left >= life.Milliseconds()): // it has no end, or one that is far off
		case err == nil, errors.Is(typed(err), ErrNoPermission): // of a user who was given fewer commands
			short = append(short, name)
		default:
			return nil, nil, nil, fmt.Errorf("pin epochs: %w", to.typed(err))
		}
		ids[i] = id
	}
	return ids, wrong, short, nil
}

// prolong puts off the end of epochs. One that has ended meanwhile stays so: what is tied to it is no hit.
func (s *Store) prolong(ctx context.Context, to *route, epochs []string, life time.Duration) error {
	if len(epochs) == 0 {
		return nil
	}
	commands := make([]rueidis.Completed, len(epochs))
	for i, name := range epochs {
		commands[i] = s.client.B().Pexpire().Key(name).Milliseconds(longevity * life.Milliseconds()).Gt().Build()
	}
	for _, reply := range to.client.DoMulti(ctx, commands...) {
		if err := reply.Error(); err != nil {
			return fmt.Errorf("pin epochs: %w", to.typed(err))
		}
	}
	return nil
}

// pinFields are those by which it is judged whether a load may be stored with its epochs, without their buckets'.
func pinFields() []string { return []string{"gen", "rev", "sys", "tl", "wi", "si"} }
