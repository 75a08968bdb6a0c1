package redisstore

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

const (
	// clusterTimeout is how long a node may take to say what it knows of the cluster.
	clusterTimeout = 500 * time.Millisecond
	// clusterGap is between two looks at who owns the lanes, clusterHaste the same when that is in doubt.
	clusterGap, clusterHaste = time.Second, 50 * time.Millisecond
	// clusterAsked is how many nodes are asked each time: one that is cut off from the others does not know of a failover.
	clusterAsked = 3
)

// cluster knows which node of a Redis Cluster owns each lane. It follows no redirection: what is sent goes to the node that is
// taken for the owner, or fails, and then it is looked who the owner is.
type cluster struct {
	option rueidis.ClientOption // the readers', without an address
	seeds  []string
	near   Near
	logger *slog.Logger

	table  atomic.Pointer[table]
	doubts [fence.Lanes]atomic.Bool
	asked  atomic.Bool // something has used it since the last look
	hurry  chan struct{}
	cancel context.CancelFunc
	done   chan struct{} // closed when the watch has ended

	mu      sync.Mutex // held while nodes are asked
	clients map[string]rueidis.Client
	tracked map[rueidis.Client]*tracker
	turn    int
}

// table is who owns the lanes, as far as is known.
type table struct {
	lanes   [fence.Lanes]owner
	members []member // all nodes, by id
	why     error    // why nothing more is known
}

// owner is the node that owns a lane; without client: none is known.
type owner struct {
	member

	client  rueidis.Client
	tracker *tracker
}

// member is a node of a cluster as others describe it.
type member struct {
	id, address string
	of          string // the master that it follows
	epoch       uint64 // of its configuration: of two that claim a slot, the one with the higher has it
	failed      bool   // as others see it
	owns        [fence.Lanes]bool
	slots       int
}

func openCluster(ctx context.Context, option rueidis.ClientOption, near Near, logger *slog.Logger) *cluster {
	c := &cluster{
		option: option, seeds: option.InitAddress, near: near, logger: logger, clients: map[string]rueidis.Client{},
		tracked: map[rueidis.Client]*tracker{},
		hurry:   make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.table.Store(&table{})
	for i := 0; i < len(c.seeds) && c.table.Load().members == nil; i += clusterAsked {
		c.look(ctx)
	}
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go c.watch(ctx)
	return c
}

func (c *cluster) close() {
	c.cancel()
	<-c.done
	for _, client := range c.clients {
		client.Close()
	}
}

// watch looks who owns the lanes, for as long as anybody asks, and at once when it is in doubt.
func (c *cluster) watch(ctx context.Context) {
	defer close(c.done)
	ticker := time.NewTicker(clusterGap)
	defer ticker.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if !c.asked.Swap(false) {
				continue
			}
		case <-c.hurry:
		}
		c.look(ctx)
		rest.Reset(clusterHaste)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return
		}
	}
}

// at is the client of a lane's owner.
func (c *cluster) at(lane int) (owner, error) {
	if !c.asked.Load() {
		c.asked.Store(true)
	}
	t := c.table.Load()
	if o := t.lanes[lane]; o.client != nil {
		return o, nil
	}
	c.soon()
	return owner{}, fmt.Errorf("%w: no node of the cluster is known that owns lane %d: %w", ErrUnavailable, lane, cmp.Or(t.why, errNoOwner))
}

var errNoOwner = errors.New("its slot is not assigned")

// doubt takes note of an answer that the owner of a lane would not give.
func (c *cluster) doubt(lane int, err error) {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrMoved) || errors.Is(err, ErrReadOnly) || errors.Is(err, ErrLoading) {
		c.doubts[lane].Store(true)
		c.soon()
	}
}

func (c *cluster) soon() {
	select {
	case c.hurry <- struct{}{}:
	default:
	}
}

// client is that of a node; the caller holds mu. It is there also when the node is away.
func (c *cluster) client(address string) (rueidis.Client, error) {
	if client := c.clients[address]; client != nil {
		return client, nil
	}
	option := c.option
	option.InitAddress = []string{address}
	if option.TLSConfig != nil {
		option.TLSConfig = withServerName(option.TLSConfig, address)
	}
	tracker := trackWith(&option, c.near, c.logger)
	client, err := rueidis.NewClient(option)
	if client == nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	c.clients[address], c.tracked[client] = client, tracker
	return client, nil
}

// look asks some nodes who owns the lanes, and believes the latest configuration.
func (c *cluster) look(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.table.Load()
	var known []string
	for _, m := range before.members {
		if !m.failed {
			known = append(known, m.address)
		}
	}
	for _, seed := range c.seeds {
		if !slices.Contains(known, seed) {
			known = append(known, seed)
		}
	}
	c.turn += clusterAsked
	type said struct {
		members []member
		err     error
	}
	var (
		asking  sync.WaitGroup
		answers = make([]said, min(clusterAsked, len(known)))
	)
	for i := range answers {
		address := known[(c.turn+i)%len(known)]
		client, err := c.client(address)
		if err != nil {
			answers[i].err = err
			continue
		}
		asking.Go(func() { answers[i].members, answers[i].err = describe(ctx, client, address) })
	}
	asking.Wait()
	next := &table{lanes: before.lanes, members: before.members}
	for lane := range next.lanes {
		if c.doubts[lane].Swap(false) {
			next.lanes[lane].epoch = 0 // whatever is said now counts
		}
	}
	var errs []error
	for _, a := range answers {
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		believe(next, a.members)
	}
	next.why = errors.Join(errs...)
	c.adopt(before, next)
}

// believe takes up what one node says: of each lane the owner with the latest configuration.
func believe(t *table, members []member) {
	t.members = members
	for _, m := range members {
		for lane, owns := range m.owns {
			if !owns {
				continue
			}
			if now := &t.lanes[lane]; now.id == "" || m.epoch >= now.epoch {
				now.member = m
			}
		}
	}
}

// adopt gives the lanes' owners their clients, closes those of nodes that are gone, and publishes the table.
func (c *cluster) adopt(before, next *table) {
	for lane := range next.lanes {
		now := &next.lanes[lane]
		if now.id == "" {
			continue
		}
		client, err := c.client(now.address)
		if err != nil {
			next.why = err
		}
		now.client, now.tracker = client, c.tracked[client]
		if was := before.lanes[lane]; was.id != "" && was.id != now.id {
			c.logger.Warn("a lane of the cluster has another owner", slog.Int("lane", lane), slog.Int("slot", fence.Slot(lane)),
				slog.String("was", was.address), slog.String("is", now.address))
		}
	}
	c.table.Store(next)
	for address, client := range c.clients {
		used := slices.Contains(c.seeds, address) ||
			slices.ContainsFunc(next.members, func(m member) bool { return m.address == address }) ||
			slices.ContainsFunc(next.lanes[:], func(o owner) bool { return o.address == address })
		if !used {
			client.Close() // whoever still waits for it gets an error, and looks anew
			delete(c.clients, address)
			delete(c.tracked, client)
		}
	}
}

// describe asks a node what it knows of the cluster: all nodes, from CLUSTER NODES, at the addresses that CLUSTER SLOTS prefers.
func describe(ctx context.Context, client rueidis.CoreClient, address string) ([]member, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	replies := client.DoMulti(ctx, client.B().ClusterNodes().Build(), client.B().ClusterSlots().Build())
	text, err := replies[0].ToString()
	if err != nil {
		return nil, fmt.Errorf("ask node %s about the cluster: %w", address, typed(err))
	}
	slots, err := replies[1].ToArray()
	if err != nil {
		return nil, fmt.Errorf("ask node %s about the cluster: %w", address, typed(err))
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("ask node %s about the cluster: %w", address, err)
	}
	members, err := parseNodes(text, host)
	if err != nil {
		return nil, fmt.Errorf("ask node %s about the cluster: %w", address, err)
	}
	prefer(members, slots, host)
	return members, nil
}

// parseNodes reads the answer to CLUSTER NODES. host is where the asked node was reached, which it may not know itself.
func parseNodes(text, host string) ([]member, error) {
	var members []member
	text = strings.TrimPrefix(text, "txt:") // how RESP3 says that it is text
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		// id host:port@bus[,name] flags master ping pong epoch link slot...
		const fixed = 8
		fields := strings.Fields(lines.Text())
		if len(fields) < fixed {
			return nil, fmt.Errorf("line %q of CLUSTER NODES: %w", lines.Text(), ErrRefused)
		}
		at, _, _ := strings.Cut(fields[1], "@")
		cut := strings.LastIndexByte(at, ':')
		epoch, err := strconv.ParseUint(fields[6], 10, 64)
		if err != nil || cut < 0 {
			return nil, fmt.Errorf("line %q of CLUSTER NODES: %w", lines.Text(), ErrRefused)
		}
		flags := strings.Split(fields[2], ",")
		m := member{
			id: fields[0], address: net.JoinHostPort(cmp.Or(strings.Trim(at[:cut], "[]"), host), at[cut+1:]), epoch: epoch,
			failed: slices.Contains(flags, "fail") || slices.Contains(flags, "noaddr") || slices.Contains(flags, "handshake"),
		}
		if fields[3] != "-" {
			m.of = fields[3]
		}
		for _, part := range fields[fixed:] {
			if strings.HasPrefix(part, "[") {
				continue // a slot that is being moved is where it was until it has been
			}
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			from, errFrom := strconv.Atoi(first)
			to, errTo := strconv.Atoi(last)
			if errFrom != nil || errTo != nil {
				return nil, fmt.Errorf("slots %q of CLUSTER NODES: %w", part, ErrRefused)
			}
			m.slots += to - from + 1
			for lane := range m.owns {
				slot := fence.Slot(lane)
				m.owns[lane] = m.owns[lane] || from <= slot && slot <= to
			}
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.id, b.id) })
	return members, nil
}

// prefer takes the addresses of CLUSTER SLOTS, which are those that nodes want to be called by.
func prefer(members []member, slots []rueidis.RedisMessage, host string) {
	for _, entry := range slots {
		parts, err := entry.ToArray()
		if err != nil {
			continue // what is not understood leaves the address of CLUSTER NODES
		}
		for _, part := range parts[min(2, len(parts)):] {
			node, err := part.ToArray()
			if err != nil || len(node) < 3 {
				continue
			}
			endpoint, errName := node[0].ToString()
			port, errPort := node[1].AsInt64()
			id, errID := node[2].ToString()
			if errPort != nil || errID != nil || errName != nil && !rueidis.IsRedisNil(errName) || endpoint == "?" {
				continue
			}
			for i := range members {
				if members[i].id == id {
					members[i].address = net.JoinHostPort(cmp.Or(endpoint, host), strconv.FormatInt(port, 10))
				}
			}
		}
	}
}
