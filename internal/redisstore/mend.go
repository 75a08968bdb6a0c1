package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// dialled is what came of connecting to a node.
type dialled struct {
	link *link
	err  error
}

// reachAll connects to every node that owns a lane.
func (c *Conn) reachAll(ctx context.Context) error {
	c.store.cluster.look(ctx)
	for _, k := range c.lanes {
		if o, err := c.store.cluster.at(k.number); err == nil {
			c.dial(ctx, o.address)
		}
	}
	reached := map[string]dialled{}
	for address, dial := range c.dials {
		reached[address] = <-dial
		delete(c.dials, address)
	}
	errs := []error{}
	for _, k := range c.lanes {
		o, err := c.store.cluster.at(k.number)
		if err == nil {
			k.link, err = reached[o.address].link, reached[o.address].err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("lane %d: %w", k.number, err))
		}
	}
	if len(errs) == len(c.lanes) {
		return errors.Join(errs...)
	}
	return nil
}

// dial begins to connect to a node, unless that is under way: one that does not answer holds nobody up. The connection
// outlives ctx.
func (c *Conn) dial(ctx context.Context, address string) {
	if c.dials[address] != nil {
		return
	}
	dial := make(chan dialled, 1)
	c.dials[address] = dial
	ctx = context.WithoutCancel(ctx)
	go func() {
		l, err := dedicate(ctx, c.store.option, address)
		dial <- dialled{l, err}
	}()
}

// dedicate connects to a node.
func dedicate(ctx context.Context, option rueidis.ClientOption, address string) (*link, error) {
	option.InitAddress = []string{address}
	if option.TLSConfig != nil {
		option.TLSConfig = withServerName(option.TLSConfig, address)
	}
	client, err := rueidis.NewClient(option)
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	dedicated, _ := client.Dedicate()
	l := &link{address: address, client: dedicated, of: client, known: map[string]bool{}}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := l.do(ctx, []rueidis.Completed{dedicated.B().Ping().Build()}); err != nil {
		l.end(err)
		return nil, err
	}
	return l, nil
}

// Mend begins closed lanes anew, as far as they can be now: their owners answer, and their slots are not on the move. It returns how
// many it opened. Everything that was confirmed must be visible in head's Si and end at or before its Wi; everything up to its Wc must be
// confirmed. Nothing is delivered again to such a lane, since nothing of before is read in it any more. Processes that have not
// noticed may go on with what was for a moment (R0), as after a move of names.
func (c *Conn) Mend(ctx context.Context, head fence.Head, roster []byte) (opened int, err error) {
	var lanes []*lane
	for _, k := range c.lanes {
		if !k.open && c.reachable(ctx, k) {
			lanes = append(lanes, k)
		}
	}
	if len(lanes) == 0 {
		return 0, nil
	}
	revision := head.Revision
	head.Revision = 0 // until the roster is there
	err = c.begin(ctx, lanes, head, "")
	c.abandon(ctx, lanes)
	if err == nil {
		lanes = c.still(lanes)
		err = c.drawTick(ctx, lanes)
	}
	if err == nil {
		lanes = c.still(lanes)
		err = c.move(ctx, lanes, c.self, roster, revision, head.Publication)
	}
	if err != nil {
		return 0, fmt.Errorf("mend lanes: %w", err)
	}
	for _, k := range c.still(lanes) {
		opened++
		c.store.logger.InfoContext(ctx, "a lane of the cluster is begun anew", slog.Int("lane", k.number), slog.String("node", k.link.address))
	}
	return opened, nil
}

// reachable reports whether a closed lane has a connection to its present owner, and has one made if not.
func (c *Conn) reachable(ctx context.Context, k *lane) bool {
	o, err := c.store.cluster.at(k.number)
	if err != nil {
		return false
	}
	if k.link != nil && k.link.address == o.address {
		return true
	}
	at := slices.IndexFunc(c.lanes, func(other *lane) bool {
		return other.link != nil && other.link.address == o.address && other.link.broken.Load() == nil
	})
	if at >= 0 {
		k.link = c.lanes[at].link
		return true
	}
	select {
	case d := <-c.dials[o.address]:
		delete(c.dials, o.address)
		if d.err != nil {
			c.store.cluster.doubt(k.number, d.err)
			return false
		}
		k.link = d.link
		return true
	default:
		c.dial(ctx, o.address)
		return false
	}
}

// abandon removes the HEADs of lanes that are lost and could not be begun anew yet, because their slots are on the move. A move may be given up, and
// the lane be where it was, HEAD and all: whoever takes over would not know that it is lost. This alone goes where it is sent. It is tried
// again with every attempt.
func (c *Conn) abandon(ctx context.Context, lanes []*lane) {
	remove := c.store.scripts.abandon
	for _, k := range lanes {
		if k.open || k.link == nil {
			continue
		}
		keys, args := []string{c.store.headKey(k.number)}, []string{string(c.self.Term)}
		replies, _ := k.link.run(ctx, []script{remove}, func() []rueidis.Completed {
			return []rueidis.Completed{k.link.eval(remove, keys, args...)}
		})
		if len(replies) != 1 {
			continue // whoever comes next finds the connection broken
		}
		if answer, ok := rueidis.IsRedisErr(replies[0].Error()); ok {
			if address, elsewhere := answer.IsAsk(); elsewhere {
				c.abandonAt(ctx, address, c.store.send(remove, keys[0], args))
			}
		}
	}
}

// abandonAt does it on the node that the slot is on its way to.
func (c *Conn) abandonAt(ctx context.Context, address string, command rueidis.Completed) {
	client, err := c.store.cluster.reach(address)
	if err != nil {
		return
	}
	for _, reply := range client.DoMulti(ctx, client.B().Asking().Build(), command) {
		if err := reply.Error(); err != nil {
			c.store.logger.DebugContext(ctx, "remove the head of a lost lane", slog.String("node", address), slog.Any("err", typed(err)))
		}
	}
}
