package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// foreignCluster are the masters of a cluster whose keys freshet does not keep. Keys are read through a client that follows
// redirections, since nothing but the value matters of them; names are scanned on each master.
type foreignCluster struct {
	option  rueidis.ClientOption
	client  rueidis.Client
	masters []member
	links   map[string]*link // by address
}

// surveyCluster opens a survey of a cluster.
func surveyCluster(ctx context.Context, option rueidis.ClientOption, address string) (*Survey, error) {
	f := &foreignCluster{option: option, links: map[string]*link{}}
	v := &Survey{foreign: f}
	if err := f.open(ctx); err != nil {
		v.Close()
		return nil, fmt.Errorf("survey: %w", maskURL(err, address))
	}
	v.servers = []surveyed{{client: f.client, close: f.client.Close}}
	return v, nil
}

func (f *foreignCluster) open(ctx context.Context) error {
	masters, err := f.look(ctx)
	if err != nil {
		return err
	}
	f.masters = masters
	routed := f.option
	routed.ForceSingleClient, routed.InitAddress = false, nil
	for _, m := range masters {
		if f.links[m.address], err = dedicate(ctx, f.option, m.address); err != nil {
			delete(f.links, m.address)
			return fmt.Errorf("node %s: %w", m.address, err)
		}
		routed.InitAddress = append(routed.InitAddress, m.address)
	}
	if routed.DialCtxFn == nil { //nolint:forbidigo // the client's name for it
		routed.DialCtxFn = dialNode //nolint:forbidigo // the client's name for it
	}
	client, err := rueidis.NewClient(routed)
	if err != nil {
		if client != nil {
			client.Close()
		}
		return typed(err)
	}
	f.client = client
	return nil
}

// dialNode dials a node of a cluster, which shows a certificate of its own.
func dialNode(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return dialer.DialContext(ctx, "tcp", address)
	}
	return (&tls.Dialer{NetDialer: dialer, Config: withServerName(config, address)}).DialContext(ctx, "tcp", address)
}

func (f *foreignCluster) close() {
	for _, l := range f.links {
		l.end(ErrUnavailable)
	}
}

// look asks who the masters are. All slots have to have one: keys of the others could not be seen.
func (f *foreignCluster) look(ctx context.Context) (masters []member, err error) {
	var errs []error
	known := slices.Clone(f.option.InitAddress)
	for _, m := range f.masters {
		known = append(known, m.address)
	}
	for _, address := range known {
		one := f.option
		one.InitAddress = []string{address}
		l, err := dedicate(ctx, one, address)
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", address, err))
			continue
		}
		members, err := describe(ctx, l.client, address)
		l.end(ErrUnavailable)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		slots := 0
		for _, m := range members {
			if m.slots > 0 {
				masters = append(masters, m)
				slots += m.slots
			}
		}
		if slots != fence.Slots {
			return nil, fmt.Errorf("%w: %d of %d slots have a node; keys in the others could not be seen: repair the cluster (redis-cli --cluster fix)",
				errSlots, slots, fence.Slots)
		}
		return masters, nil
	}
	return nil, errors.Join(errs...)
}

var errSlots = errors.New("the cluster is not whole")

// errResharded says that a walk may not have met every key.
var errResharded = errors.New("slots of the cluster were moved, or a node failed over, while keys were scanned: some may not have been seen; run it again")

// walk visits the names on every master. Keys that move from a node which is still to be scanned to one that has been are not met, so
// that everything has to be where it was in the end.
func (f *foreignCluster) walk(ctx context.Context, pattern string, visit func(names []string) error) error {
	before, err := f.look(ctx)
	if err != nil {
		return fmt.Errorf("scan keys: %w", err)
	}
	for _, m := range before {
		l := f.links[m.address]
		if l == nil {
			return fmt.Errorf("scan keys: %w", errResharded)
		}
		if err := walk(ctx, l.client, pattern, visit); err != nil {
			return err
		}
	}
	after, err := f.look(ctx)
	if err != nil {
		return fmt.Errorf("scan keys: %w", err)
	}
	same := func(a, b member) bool {
		return a.id == b.id && a.address == b.address && a.epoch == b.epoch && a.slots == b.slots
	}
	byID := func(a, b member) int { return strings.Compare(a.id, b.id) }
	slices.SortFunc(before, byID)
	slices.SortFunc(after, byID)
	if !slices.EqualFunc(before, after, same) {
		return fmt.Errorf("scan keys: %w", errResharded)
	}
	return nil
}
