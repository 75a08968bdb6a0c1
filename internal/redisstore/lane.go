package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Lanes is how many parts the records are kept in, each under a HEAD of its own: one on a server, fence.Lanes in a cluster.
func (s *Store) Lanes() int { return s.lanes }

// laneKey is the key of a lane's HEAD, roster and so on.
func (s *Store) laneKey(lane int, what string) string {
	return "f:" + fence.LaneNamespace(s.namespace, s.lanes, lane) + ":" + what
}

func (s *Store) headKey(lane int) string   { return s.laneKey(lane, "head") }
func (s *Store) rosterKey(lane int) string { return s.laneKey(lane, "roster") }
func (s *Store) tickKey(lane int) string   { return s.laneKey(lane, "tick") }

// probeKey is a key of the lane's slot that never exists. A command that names it besides HEAD is refused by a cluster
// (TRYAGAIN, ASK) as long as the slot is being moved, when a key may be here or there.
func (s *Store) probeKey(lane int) string { return s.laneKey(lane, "probe") }

// headKeys are those of a script on HEAD.
func (s *Store) headKeys(lane int) []string {
	if s.lanes == 1 {
		return []string{s.headKey(0)}
	}
	return []string{s.headKey(lane), s.probeKey(lane)}
}

// errNoLane is the error of a name that has no lane's tag: it was spelled for one server.
var errNoLane = errors.New("the name is of no lane of the cluster")

// route is where a command about a name goes, and what is done about an answer that is not from there.
type route struct {
	client  rueidis.Client
	cluster *cluster
	tracker *tracker
	lane    int
}

func (s *Store) to(name string) (route, error) {
	if s.cluster == nil {
		return route{client: s.client, tracker: s.tracker}, nil
	}
	lane, ok := fence.LaneIn(s.namespace, name)
	if !ok {
		return route{}, fmt.Errorf("%w: %s", errNoLane, name)
	}
	return s.toLane(lane)
}

func (s *Store) toLane(lane int) (route, error) {
	if s.cluster == nil {
		return route{client: s.client, tracker: s.tracker}, nil
	}
	o, err := s.cluster.at(lane)
	if err != nil {
		return route{}, err
	}
	return route{client: o.client, cluster: s.cluster, tracker: o.tracker, lane: lane}, nil
}

// typed is an error of the client as one of this package's.
func (r *route) typed(err error) error {
	if err = typed(err); err != nil && r.cluster != nil {
		r.cluster.doubt(r.lane, err)
	}
	return err
}

// Heads reads the HEADs of all lanes, without the floors of buckets. Where a lane's HEAD was begun in another history than that of
// the server which has it now, there is none.
func (s *Store) Heads(ctx context.Context) []LaneHead {
	heads := make([]LaneHead, s.lanes)
	if s.cluster == nil {
		wire := s.tracker.confirm(ctx, s.client, s.echoKey(0))
		heads[0].Head, heads[0].Found, heads[0].Err = parseHead(s.client.Do(ctx, s.readHead(0, wholeHead())), wholeHead())
		if s.tracker.held() == wire {
			heads[0].Wire = wire.known()
		}
		return heads
	}
	lanes := map[rueidis.Client][]int{}
	trackers := map[rueidis.Client]*tracker{}
	for lane := range heads {
		to, err := s.toLane(lane)
		if err != nil {
			heads[lane].Err = err
			continue
		}
		lanes[to.client], trackers[to.client] = append(lanes[to.client], lane), to.tracker
	}
	var asking sync.WaitGroup
	for client, some := range lanes {
		asking.Go(func() {
			tracker := trackers[client]
			wire := tracker.confirm(ctx, client, s.echoKey(some[0]))
			replies := s.look(ctx, client, some)
			if tracker.held() != wire {
				wire = nil
			}
			for i, reply := range replies {
				to, at := route{cluster: s.cluster, lane: some[i]}, &heads[some[i]]
				if at.Head, at.Found, at.Err = parseHead(reply, laneHead()); at.Err == nil {
					at.Wire = wire.known()
				} else {
					_ = to.typed(reply.Error())
				}
			}
		})
	}
	asking.Wait()
	return heads
}

// look reads the HEADs of lanes on one node.
func (s *Store) look(ctx context.Context, client rueidis.Client, lanes []int) []rueidis.RedisResult {
	ask := func(call func(c script, keys, args []string) rueidis.Completed) []rueidis.RedisResult {
		commands := make([]rueidis.Completed, len(lanes))
		for i, lane := range lanes {
			commands[i] = call(s.scripts.look, s.headKeys(lane), laneHead())
		}
		return client.DoMulti(ctx, commands...)
	}
	replies := ask(s.callRead)
	for _, reply := range replies {
		if isNoScript(reply.Error()) {
			return ask(s.sendRead)
		}
	}
	return replies
}

// laneHead are all fields of a lane's HEAD but the floors of buckets.
func laneHead() []string { return append(wholeHead(), "lane", "at") }

// Head reads HEAD, without the floors of buckets. That of a cluster is what the HEADs of its lanes say together.
func (s *Store) Head(ctx context.Context) (fence.Head, bool, error) {
	return store.JoinHeads(s.Heads(ctx))
}

// Roster reads the roster's text. Every lane has it; it is read from one whose HEAD names the latest.
func (s *Store) Roster(ctx context.Context) (text []byte, found bool, err error) {
	if s.lanes == 1 {
		return rosterText(s.client.Do(ctx, s.client.B().Get().Key(s.rosterKey(0)).Build()))
	}
	joined, found, err := store.JoinHeads(s.Heads(ctx))
	if err != nil || !found {
		return nil, false, err
	}
	for lane, h := range joined.Lanes {
		if h.Generation == "" || h.Revision != joined.Revision {
			continue
		}
		to, away := s.toLane(lane)
		if away == nil {
			text, found, err = rosterText(to.client.Do(ctx, s.client.B().Get().Key(s.rosterKey(lane)).Build()))
		}
		if away == nil && err == nil && found {
			return text, true, nil
		}
	}
	return nil, false, err
}

// callRead and sendRead call a script that only reads: whoever may read its keys may call it so.
func (s *Store) callRead(c script, keys, args []string) rueidis.Completed {
	return s.client.B().EvalshaRo().Sha1(c.digest).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

func (s *Store) sendRead(c script, keys, args []string) rueidis.Completed {
	return s.client.B().EvalRo().Script(c.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}
