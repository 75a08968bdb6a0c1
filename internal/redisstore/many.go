package redisstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// portion is the part of a pipeline that is about one lane: indexes of what the caller asks.
type portion struct {
	to   route
	some []int
}

// spread divides names by lanes, and these by the clients that they are sent over: what goes over one client goes in one
// pipeline. missed gets the errors of lanes that nobody owns now.
func (s *Store) spread(count int, name func(int) string, missed func(int, error)) [][]*portion {
	lanes := map[int]*portion{}
	var order []*portion
	for i := range count {
		to, err := s.to(name(i))
		if err != nil {
			missed(i, err)
			continue
		}
		at := lanes[to.lane]
		if at == nil {
			at = &portion{to: to}
			lanes[to.lane] = at
			order = append(order, at)
		}
		at.some = append(at.some, i)
	}
	var clients [][]*portion
	for _, one := range order {
		at := slices.IndexFunc(clients, func(c []*portion) bool { return c[0].to.client == one.to.client })
		if at < 0 {
			clients = append(clients, nil)
			at = len(clients) - 1
		}
		clients[at] = append(clients[at], one)
	}
	return clients
}

// eachClient runs do for the portions of each client, all at a time.
func eachClient(clients [][]*portion, do func([]*portion)) {
	if len(clients) == 1 {
		do(clients[0])
		return
	}
	var running sync.WaitGroup
	for _, portions := range clients {
		running.Go(func() { do(portions) })
	}
	running.Wait()
}

// ReadMany reads records in one round trip to each server: those without epochs by one MGET for each lane, so that they are of
// one moment, any other by an MGET of its own, with its epochs. With head, HEAD is read before them on the same connection.
func (s *Store) ReadMany(ctx context.Context, all []Reading, head bool) []Found {
	found := make([]Found, len(all))
	clients := s.spread(len(all), func(i int) string { return all[i].Name }, func(i int, err error) {
		found[i].Err = fmt.Errorf("get record: %w", err)
	})
	with := alone
	if head {
		with = vouching
	}
	eachClient(clients, func(portions []*portion) { s.readPortions(ctx, portions, all, found, with) })
	return found
}

// company is what records are read with.
type company uint8

const (
	alone    company = iota
	vouching         // HEAD, before them
	telling          // the server's word that it will tell of their changes
)

func (s *Store) readPortions(ctx context.Context, portions []*portion, all []Reading, found []Found, with company) {
	fields, head := s.headFields(vouchedFields()), with == vouching
	read := func(name string, others []string) []rueidis.Completed {
		if with == telling {
			return []rueidis.Completed{s.caching(), s.readTied(name, others)}
		}
		return []rueidis.Completed{s.readTied(name, others)}
	}
	send := func(call func(c script, keys, args []string) rueidis.Completed) []rueidis.RedisResult {
		var commands []rueidis.Completed
		for _, one := range portions {
			if head {
				commands = append(commands, s.headFor(one.to.lane, fields, call))
			}
			var plain []string
			for _, i := range one.some {
				if len(all[i].Epochs) == 0 {
					plain = append(plain, all[i].Name)
				} else {
					commands = append(commands, read(all[i].Name, all[i].Epochs)...)
				}
			}
			if len(plain) > 0 {
				commands = append(commands, read(plain[0], plain[1:])...)
			}
		}
		replies := portions[0].to.client.DoMulti(ctx, commands...)
		if with == telling { // the word itself says nothing: whoever listens hears of a connection that is another one
			for i := range len(replies) / 2 {
				replies[i] = replies[2*i+1]
			}
			replies = replies[:len(replies)/2]
		}
		return replies
	}
	replies := send(s.callRead)
	if head && isNoScript(replies[0].Error()) {
		replies = send(s.sendRead)
	}
	for _, one := range portions {
		replies = one.read(replies, all, found, head, fields)
	}
}

// read takes the replies of a share, and returns the others'.
func (one *portion) read(replies []rueidis.RedisResult, all []Reading, found []Found, head bool, fields []string) []rueidis.RedisResult {
	var (
		vouching  fence.Head
		headFound bool
		headErr   error
		plain     []int
	)
	if head {
		if vouching, headFound, headErr = parseHead(replies[0], fields); headErr != nil {
			_ = one.to.typed(replies[0].Error())
		}
		replies = replies[1:]
	}
	failed := func(err error) error {
		if err == nil {
			return headErr
		}
		return fmt.Errorf("get record: %w", one.to.typed(err))
	}
	for _, i := range one.some {
		found[i].Head, found[i].HeadFound = vouching, headFound
		if len(all[i].Epochs) == 0 {
			plain = append(plain, i)
			continue
		}
		var err error
		found[i].Tied, err = parseTied(replies[0], len(all[i].Epochs))
		found[i].Err = failed(err)
		replies = replies[1:]
	}
	if len(plain) == 0 {
		return replies
	}
	texts, err := parseTexts(replies[0], len(plain))
	for n, i := range plain {
		if found[i].Err = failed(err); err == nil {
			found[i].Text = unpack(texts[n])
		}
	}
	return replies[1:]
}

func parseTexts(reply rueidis.RedisResult, count int) ([][]byte, error) {
	values, err := reply.ToArray()
	if err != nil {
		return nil, err
	}
	if len(values) != count {
		return nil, fmt.Errorf("answer of %d parts: %w", len(values), ErrRefused)
	}
	texts := make([][]byte, count)
	for i := range texts {
		if texts[i], err = values[i].AsBytes(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
	}
	return texts, nil
}

// LeaseMany asks for several leases in one round trip to each server, and reads HEAD after all of them on the same connection.
func (s *Store) LeaseMany(ctx context.Context, all []Leasing) []Leased {
	leased := make([]Leased, len(all))
	clients := s.spread(len(all), func(i int) string { return all[i].Name }, func(i int, err error) {
		leased[i].Err = fmt.Errorf("lease key: %w", err)
	})
	eachClient(clients, func(portions []*portion) {
		groups, fields := make([]*group, len(portions)), make([][]string, len(portions))
		for n, one := range portions {
			groups[n], fields[n] = s.leases(one, all)
		}
		s.callGroups(ctx, portions[0].to.client, s.scripts.lease, groups)
		for n, one := range portions {
			one.leased(groups[n], fields[n], all, leased)
		}
	})
	return leased
}

// leases are the calls for a lane, and the fields of the HEAD that is read after them.
func (s *Store) leases(one *portion, all []Leasing) (calls *group, fields []string) {
	g := &group{calls: make([]call, len(one.some))}
	fields = headFields()
	for n, i := range one.some {
		l := &all[i]
		g.calls[n] = call{l.Name, []string{string(l.Token), millis(l.Lasts), millis(leaseMargin)}}
		if l.Dead != "" {
			g.calls[n].args = append(g.calls[n].args, l.Dead)
		}
		if field := fence.BucketOf(l.Name).Field(); !slices.Contains(fields, field) {
			fields = append(fields, field)
		}
	}
	fields = s.headFields(fields)
	g.last = func(read func(c script, keys, args []string) rueidis.Completed) rueidis.Completed {
		return s.headFor(one.to.lane, fields, read)
	}
	return g, fields
}

func (one *portion) leased(g *group, fields []string, all []Leasing, leased []Leased) {
	head, found, err := parseHead(g.end, fields)
	if err != nil {
		_ = one.to.typed(g.end.Error())
	}
	for n, i := range one.some {
		l := &leased[i]
		if l.LeaseReply, l.Err = parseLease(&one.to, g.replies[n]); l.Err == nil && err != nil {
			l.Err = fmt.Errorf("lease key: %w", err)
		}
		l.Head, l.HeadFound = head.For(fence.BucketOf(all[i].Name)), found
	}
}

// call is a call of a script on one key.
type call struct {
	name string
	args []string
}

// group are calls of a script on keys of one lane, with a command after them, if there is one, and what is answered.
type group struct {
	calls   []call
	last    func(read func(c script, keys, args []string) rueidis.Completed) rueidis.Completed
	replies []rueidis.RedisResult
	end     rueidis.RedisResult
}

// callGroups sends all of them in one pipeline. A server that does not know a script gets those calls again that it has refused
// for that, and the commands after them: nothing was done by a call that was refused.
func (s *Store) callGroups(ctx context.Context, client rueidis.Client, c script, groups []*group) {
	var commands []rueidis.Completed
	for _, g := range groups {
		for _, one := range g.calls {
			commands = append(commands, s.call(c, one.name, one.args))
		}
		if g.last != nil {
			commands = append(commands, g.last(s.callRead))
		}
	}
	replies := client.DoMulti(ctx, commands...)
	commands = nil
	var later []*rueidis.RedisResult // where the replies to the second pipeline go
	known := false
	for _, g := range groups {
		g.replies = replies[:len(g.calls)]
		replies = replies[len(g.calls):]
		before := len(commands)
		for i, one := range g.calls {
			if !isNoScript(g.replies[i].Error()) {
				continue
			}
			send := s.send
			if known {
				send = s.call // the text went before it
			}
			known = true
			commands, later = append(commands, send(c, one.name, one.args)), append(later, &g.replies[i])
		}
		if g.last == nil {
			continue
		}
		g.end, replies = replies[0], replies[1:]
		if len(commands) > before || isNoScript(g.end.Error()) {
			commands, later = append(commands, g.last(s.sendRead)), append(later, &g.end)
		}
	}
	if len(commands) == 0 {
		return
	}
	for i, reply := range client.DoMulti(ctx, commands...) {
		*later[i] = reply
	}
}

// FillMany stores several values, each under its own lease, in one round trip to each server.
func (s *Store) FillMany(ctx context.Context, all []Filling) []Filled {
	filled := make([]Filled, len(all))
	calls, of := make([]call, 0, len(all)), make([]int, 0, len(all))
	for i := range all {
		args, err := fillArgs(&all[i].FillRequest)
		if filled[i].Err = err; err == nil {
			calls, of = append(calls, call{all[i].Name, args}), append(of, i)
		}
	}
	s.eachCall(ctx, s.scripts.fill, calls, func(n int, reply rueidis.RedisResult, err error) {
		f := &filled[of[n]]
		if err != nil {
			f.Err = fmt.Errorf("fill key: %w", err)
			return
		}
		f.Outcome, _, f.Err = fillOutcome("fill key", reply)
	})
	return filled
}

// ReleaseMany gives several leases back. It says what the first error was.
func (s *Store) ReleaseMany(ctx context.Context, names []string, tokens []fence.Token) (first error) {
	calls := make([]call, len(names))
	for i := range names {
		calls[i] = call{names[i], []string{string(tokens[i])}}
	}
	s.eachCall(ctx, s.scripts.release, calls, func(_ int, _ rueidis.RedisResult, err error) {
		if err != nil && first == nil {
			first = fmt.Errorf("release lease: %w", err)
		}
	})
	return first
}

// eachCall calls a script on keys wherever they are, and hands over each reply. It calls done for one at a time.
func (s *Store) eachCall(ctx context.Context, c script, calls []call, done func(i int, reply rueidis.RedisResult, err error)) {
	var mu sync.Mutex
	clients := s.spread(len(calls), func(i int) string { return calls[i].name }, func(i int, err error) { done(i, rueidis.RedisResult{}, err) })
	eachClient(clients, func(portions []*portion) {
		groups := make([]*group, len(portions))
		for n, one := range portions {
			groups[n] = &group{}
			for _, i := range one.some {
				groups[n].calls = append(groups[n].calls, calls[i])
			}
		}
		s.callGroups(ctx, portions[0].to.client, c, groups)
		mu.Lock()
		defer mu.Unlock()
		for g, one := range portions {
			for n, i := range one.some {
				reply := groups[g].replies[n]
				done(i, reply, one.to.typed(reply.Error()))
			}
		}
	})
}

// PinMany is Pin for the values of several keys. HEAD is read after the ids of all of them, on the same connection.
func (s *Store) PinMany(ctx context.Context, all [][]string, life time.Duration) []PinnedMany {
	pinned := make([]PinnedMany, len(all))
	clients := s.spread(len(all), func(i int) string { return all[i][0] }, func(i int, err error) {
		pinned[i].Err = fmt.Errorf("pin epochs: %w", err)
	})
	eachClient(clients, func(portions []*portion) { s.pinPortions(ctx, portions, all, life, pinned) })
	return pinned
}

func (s *Store) pinPortions(ctx context.Context, portions []*portion, all [][]string, life time.Duration, pinned []PinnedMany) {
	own, fields := make([]string, len(all)), make([][]string, len(portions))
	for n, one := range portions {
		fields[n] = s.headFields(one.pinFields(all))
	}
	send := func(call func(c script, keys, args []string) rueidis.Completed) (replies []rueidis.RedisResult, unknown bool) {
		var commands []rueidis.Completed
		for n, one := range portions {
			for _, i := range one.some {
				own[i] = store.Draw() + store.Draw()
				commands = append(commands, s.pin(all[i], own[i], life)...)
			}
			commands = append(commands, s.headFor(one.to.lane, fields[n], call))
		}
		replies = portions[0].to.client.DoMulti(ctx, commands...)
		return replies, isNoScript(replies[len(replies)-1].Error())
	}
	replies, unknown := send(s.callRead)
	if unknown {
		replies, _ = send(s.sendRead)
	}
	var late []int
	ending := map[string]bool{}
	for n, one := range portions {
		count := 0
		for _, i := range one.some {
			count += 2 * len(all[i])
		}
		head, found, err := parseHead(replies[count], fields[n])
		for _, i := range one.some {
			p := &pinned[i]
			var wrong, short []string
			if p.IDs, wrong, short, p.Err = pinnedIDs(&one.to, all[i], own[i], life, replies); p.Err == nil && len(wrong) > 0 {
				p.Err = s.unpin(ctx, &one.to, wrong)
			}
			if len(short) > 0 {
				late = append(late, i)
			}
			for _, name := range short {
				ending[name] = true
			}
			if p.Err == nil && err != nil {
				p.Err = fmt.Errorf("pin epochs: %w", one.to.typed(err))
			}
			p.Head, p.HeadFound = head, found
			replies = replies[2*len(all[i]):]
		}
		replies = replies[1:]
	}
	if err := s.prolong(ctx, &portions[0].to, slices.Sorted(maps.Keys(ending)), life); err != nil {
		for _, i := range late {
			if pinned[i].Err == nil {
				pinned[i].Err = err
			}
		}
	}
}

// pinFields are those of HEAD by which the pins of a lane are judged.
func (one *portion) pinFields(all [][]string) []string {
	fields := append(pinFields(), "st")
	seen := map[string]bool{}
	for _, i := range one.some {
		for _, name := range all[i] {
			b := fence.BucketOf(name)
			if field := b.Field(); !seen[field] {
				seen[field] = true
				fields = append(fields, field, b.EndedField())
			}
		}
	}
	return fields
}

// unpin removes what is no epoch from under the names of epochs.
func (s *Store) unpin(ctx context.Context, to *route, wrong []string) error {
	err := to.client.Do(ctx, s.client.B().Unlink().Key(wrong...).Build()).Error()
	if err = to.typed(err); err != nil {
		return fmt.Errorf("pin epochs: %w: %s: %w", errEpoch, strings.Join(wrong, ", "), err)
	}
	return fmt.Errorf("pin epochs: %w: %s", errEpoch, strings.Join(wrong, ", "))
}
