package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// namesPerPage is how many keys a step of a walk looks at: few enough that nobody waits for it.
const namesPerPage = 250

// Survey reads many keys over a connection of its own, so that readers who share the store's connection do not wait
// behind what it asks for. It is used by one goroutine at a time. It writes nothing.
type Survey struct {
	store  *Store // nil: of a Redis that freshet does not keep
	client rueidis.DedicatedClient
	close  func()
}

// Held is what a key holds.
type Held struct {
	Found bool // the key is there
	Other bool // it holds something of another type than was asked for
	Text  []byte
	TTL   time.Duration // until it expires; 0: it does not
}

// Survey opens one over the store.
func (s *Store) Survey(ctx context.Context) (*Survey, error) {
	client, err := s.dedicate()
	if err != nil {
		return nil, fmt.Errorf("survey: %w", err)
	}
	return (&Survey{store: s, client: client, close: client.Close}).pinged(ctx)
}

// OpenSurvey opens one over any Redis, whatever it holds.
func OpenSurvey(ctx context.Context, address string) (*Survey, error) {
	option, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	if option.Sentinel.MasterSet != "" {
		return nil, errors.New("parse redis url: a survey of keys that freshet does not keep takes the address of one server, not of Sentinels")
	}
	client, err := rueidis.NewClient(timed(option, replyTimeout, dialTimeout, time.Second))
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, fmt.Errorf("open redis: %w: %w", ErrUnavailable, maskURL(err, address))
	}
	dedicated, _ := client.Dedicate()
	return (&Survey{client: dedicated, close: func() { dedicated.Close(); client.Close() }}).pinged(ctx)
}

// pinged is the survey, if the server answers.
func (v *Survey) pinged(ctx context.Context) (*Survey, error) {
	if err := v.client.Do(ctx, v.client.B().Ping().Build()).Error(); err != nil {
		v.close()
		return nil, fmt.Errorf("survey: %w", typed(err))
	}
	return v, nil
}

// Close ends the connection.
func (v *Survey) Close() { v.close() }

// Head reads HEAD, whole.
func (v *Survey) Head(ctx context.Context) (fence.Head, bool, error) {
	return parseHead(v.client.Do(ctx, v.store.readHead(wholeHead())), wholeHead())
}

// Roster reads the roster's text.
func (v *Survey) Roster(ctx context.Context) (text []byte, found bool, err error) {
	return rosterText(v.client.Do(ctx, v.client.B().Get().Key(v.store.rosterKey()).Build()))
}

// Walk visits the names of all keys that match a pattern of Redis, some at a time. A key that is there from the
// beginning to the end is visited; one may be visited twice when the server resizes its table meanwhile. While visit
// runs, the walk stands still.
func (v *Survey) Walk(ctx context.Context, pattern string, visit func(names []string) error) error {
	for cursor := uint64(0); ; {
		page, err := v.client.Do(ctx, v.client.B().Scan().Cursor(cursor).Match(pattern).Count(namesPerPage).Build()).AsScanEntry()
		if err != nil {
			return fmt.Errorf("scan keys: %w", typed(err))
		}
		slices.Sort(page.Elements)
		if names := slices.Compact(page.Elements); len(names) > 0 {
			if err := visit(names); err != nil {
				return err
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

// Read reads strings, in the order of the names.
func (v *Survey) Read(ctx context.Context, names []string) ([]Held, error) {
	return v.read(ctx, names, func(name string) rueidis.Completed { return v.client.B().Get().Key(name).Build() },
		func(reply rueidis.RedisResult) ([]byte, error) { return reply.AsBytes() })
}

// ReadHashes reads hashes, in the order of the names, each as the text of a JSON object with its fields in order.
func (v *Survey) ReadHashes(ctx context.Context, names []string) ([]Held, error) {
	return v.read(ctx, names, func(name string) rueidis.Completed { return v.client.B().Hgetall().Key(name).Build() },
		func(reply rueidis.RedisResult) ([]byte, error) {
			fields, err := reply.AsStrMap()
			if err != nil {
				return nil, err
			}
			if len(fields) == 0 { // there is no empty hash
				return nil, rueidis.Nil
			}
			return json.Marshal(fields)
		})
}

func (v *Survey) read(
	ctx context.Context, names []string, command func(name string) rueidis.Completed, take func(rueidis.RedisResult) ([]byte, error),
) ([]Held, error) {
	commands := make([]rueidis.Completed, 0, 2*len(names))
	for _, name := range names {
		commands = append(commands, command(name), v.client.B().Pttl().Key(name).Build())
	}
	held := make([]Held, len(names))
	if len(names) == 0 {
		return held, nil
	}
	replies := v.client.DoMulti(ctx, commands...)
	for i := range held {
		text, err := take(replies[2*i])
		switch {
		case rueidis.IsRedisNil(err):
			continue
		case isWrongType(err):
			held[i].Other = true
		case err != nil:
			return nil, fmt.Errorf("read keys: %w", typed(err))
		}
		left, err := replies[2*i+1].AsInt64()
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", typed(err))
		}
		const gone, endless = -2, -1
		switch left {
		case gone: // it expired between the two
			held[i] = Held{}
			continue
		case endless:
			left = 0
		default:
			left = max(left, 1)
		}
		held[i].Found, held[i].Text, held[i].TTL = true, text, time.Duration(left)*time.Millisecond
	}
	return held, nil
}
