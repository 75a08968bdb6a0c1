package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// namesPerPage is how many keys a step of a walk looks at: few enough that nobody waits for it.
const namesPerPage = 250

// Survey reads many keys over connections of its own, so that readers who share the store's connections do not wait
// behind what it asks for. It is used by one goroutine at a time. It writes nothing.
type Survey struct {
	store   *Store // nil: of a Redis that freshet does not keep
	servers []surveyed
	foreign *foreignCluster // of a cluster that freshet does not keep; servers then has one client, which finds every key
}

// surveyed is a connection to a server.
type surveyed struct {
	address string // in a cluster
	client  rueidis.CoreClient
	close   func()
}

// Survey opens one over the store.
func (s *Store) Survey(ctx context.Context) (*Survey, error) {
	v := &Survey{store: s}
	if s.cluster == nil {
		client, err := s.dedicate()
		if err != nil {
			return nil, fmt.Errorf("survey: %w", err)
		}
		v.servers = []surveyed{{client: client, close: client.Close}}
		return v.pinged(ctx)
	}
	for lane := range s.lanes {
		if _, err := v.server(ctx, lane); err != nil {
			v.Close()
			return nil, fmt.Errorf("survey: lane %d: %w", lane, err)
		}
	}
	return v, nil
}

// server is the connection to a lane's owner.
func (v *Survey) server(ctx context.Context, lane int) (rueidis.CoreClient, error) {
	if v.store == nil || v.store.cluster == nil {
		return v.servers[0].client, nil
	}
	o, err := v.store.cluster.at(lane)
	if err != nil {
		return nil, err
	}
	for _, server := range v.servers {
		if server.address == o.address {
			return server.client, nil
		}
	}
	l, err := dedicate(ctx, v.store.option, o.address)
	if err != nil {
		return nil, err
	}
	v.servers = append(v.servers, surveyed{address: o.address, client: l.client, close: func() { l.end(ErrUnavailable) }})
	return l.client, nil
}

// OpenSurvey opens one over any Redis, whatever it holds: a server, or a cluster, of which one node's address is enough.
func OpenSurvey(ctx context.Context, address string) (*Survey, error) {
	option, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	if option.Sentinel.MasterSet != "" {
		return nil, errors.New("parse redis url: a survey of keys that freshet does not keep takes the address of a server or of a cluster, not of Sentinels")
	}
	option = timed(option, replyTimeout, dialTimeout, time.Second)
	if clustered(option, address) {
		return surveyCluster(ctx, option, address)
	}
	client, err := rueidis.NewClient(option)
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, fmt.Errorf("open redis: %w: %w", ErrUnavailable, maskURL(err, address))
	}
	if text, err := client.Do(ctx, client.B().Info().Section("cluster").Build()).ToString(); err == nil && strings.Contains(text, "cluster_enabled:1") {
		client.Close() // one node alone would be a part of the keys
		return surveyCluster(ctx, option, address)
	}
	dedicated, _ := client.Dedicate()
	return (&Survey{servers: []surveyed{{client: dedicated, close: func() { dedicated.Close(); client.Close() }}}}).pinged(ctx)
}

// pinged is the survey, if the server answers.
func (v *Survey) pinged(ctx context.Context) (*Survey, error) {
	client := v.servers[0].client
	if err := client.Do(ctx, client.B().Ping().Build()).Error(); err != nil {
		v.Close()
		return nil, fmt.Errorf("survey: %w", typed(err))
	}
	return v, nil
}

// Close ends the connections.
func (v *Survey) Close() {
	for _, server := range v.servers {
		server.close()
	}
	if v.foreign != nil {
		v.foreign.close()
	}
}

// Head reads HEAD, whole. That of a cluster is what the HEADs of its lanes say together, all of which have to answer.
func (v *Survey) Head(ctx context.Context) (fence.Head, bool, error) {
	if v.store.cluster != nil {
		heads := v.store.Heads(ctx)
		for lane, h := range heads {
			if errors.Is(h.Err, ErrUnavailable) {
				return fence.Head{}, false, fmt.Errorf("lane %d: %w", lane, h.Err) // readers may reach it
			}
		}
		return store.JoinHeads(heads)
	}
	client := v.servers[0].client
	return parseHead(client.Do(ctx, v.store.readHead(0, wholeHead())), wholeHead())
}

// Roster reads the roster's text.
func (v *Survey) Roster(ctx context.Context) (text []byte, found bool, err error) {
	if v.store.cluster != nil {
		return v.store.Roster(ctx)
	}
	client := v.servers[0].client
	return rosterText(client.Do(ctx, client.B().Get().Key(v.store.rosterKey(0)).Build()))
}

// Walk visits the names of all keys that match a pattern of Redis, some at a time. A key that is there from the
// beginning to the end is visited; one may be visited twice when the server resizes its table meanwhile. While visit
// runs, the walk stands still.
func (v *Survey) Walk(ctx context.Context, pattern string, visit func(names []string) error) error {
	if v.foreign != nil {
		return v.foreign.walk(ctx, pattern, visit)
	}
	walked := map[rueidis.CoreClient]bool{}
	for lane := range v.lanes() {
		client, err := v.server(ctx, lane)
		if err != nil {
			return fmt.Errorf("scan keys: %w", err)
		}
		if walked[client] {
			continue
		}
		walked[client] = true
		if err := walk(ctx, client, pattern, visit); err != nil {
			return err
		}
	}
	return nil
}

func (v *Survey) lanes() int {
	if v.store == nil {
		return 1
	}
	return v.store.lanes
}

func walk(ctx context.Context, client rueidis.CoreClient, pattern string, visit func(names []string) error) error {
	for cursor := uint64(0); ; {
		page, err := client.Do(ctx, client.B().Scan().Cursor(cursor).Match(pattern).Count(namesPerPage).Build()).AsScanEntry()
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
	b := v.servers[0].client.B()
	return v.read(ctx, names, func(name string) rueidis.Completed { return b.Get().Key(name).Build() },
		func(reply rueidis.RedisResult) ([]byte, error) {
			text, err := reply.AsBytes()
			if v.store == nil {
				return text, err
			}
			return unpack(text), err
		})
}

// ReadHashes reads hashes, in the order of the names, each as the text of a JSON object with its fields in order.
func (v *Survey) ReadHashes(ctx context.Context, names []string) ([]Held, error) {
	b := v.servers[0].client.B()
	return v.read(ctx, names, func(name string) rueidis.Completed { return b.Hgetall().Key(name).Build() },
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
	held := make([]Held, len(names))
	parts := map[rueidis.CoreClient][]int{}
	for i, name := range names {
		lane := 0
		if v.lanes() > 1 {
			var ok bool
			if lane, ok = fence.LaneIn(v.store.namespace, name); !ok {
				continue // no reader looks for it
			}
		}
		client, err := v.server(ctx, lane)
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		parts[client] = append(parts[client], i)
	}
	for client, some := range parts {
		if err := readFrom(ctx, client, names, some, held, command, take); err != nil {
			return nil, err
		}
	}
	return held, nil
}

// readFrom reads some of the names from one server.
func readFrom(
	ctx context.Context, client rueidis.CoreClient, names []string, some []int, held []Held,
	command func(name string) rueidis.Completed, take func(rueidis.RedisResult) ([]byte, error),
) error {
	commands := make([]rueidis.Completed, 0, 2*len(some))
	for _, i := range some {
		commands = append(commands, command(names[i]), client.B().Pttl().Key(names[i]).Build())
	}
	replies := client.DoMulti(ctx, commands...)
	for at, i := range some {
		text, err := take(replies[2*at])
		switch {
		case rueidis.IsRedisNil(err):
			continue
		case isWrongType(err):
			held[i].Other = true
		case err != nil:
			return fmt.Errorf("read keys: %w", typed(err))
		}
		left, err := replies[2*at+1].AsInt64()
		if err != nil {
			return fmt.Errorf("read keys: %w", typed(err))
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
	return nil
}
