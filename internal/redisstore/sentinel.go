package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	// sentinelTimeout is how long one Sentinel may take to answer.
	sentinelTimeout = 500 * time.Millisecond
	// otherSentinels is how long the others are waited for once one has answered: they may know of a later switch.
	otherSentinels = 100 * time.Millisecond
	// sentinelGap is between two looks at whether the master is still the one that connections lead to.
	sentinelGap = time.Second
)

// errNoSentinel says that nobody knows the master.
var errNoSentinel = errors.New("no sentinel names a master")

// sentinels know which server is the master, and end every connection to one that is not any more: a master that was
// cut off may go on answering, with what it had.
type sentinels struct {
	master  string
	clients map[string]rueidis.Client // by address
	logger  *slog.Logger
	cancel  context.CancelFunc
	watched chan struct{} // closed when the watch has ended

	mu      sync.Mutex
	current sentinelReply // what the latest answer said
	conns   map[*followed]struct{}
}

// sentinelReply is what a Sentinel says of the master.
type sentinelReply struct {
	address   string // of the master
	epoch     int64  // of its configuration; a switch makes it higher
	sentinels int    // that know of each other
	quorum    int
	replicas  int
}

// openSentinels starts the watch, which outlives ctx. option is that of the servers; its addresses are the Sentinels'.
func openSentinels(ctx context.Context, option rueidis.ClientOption, username, password string, logger *slog.Logger) (*sentinels, error) {
	s := &sentinels{
		master: option.Sentinel.MasterSet, clients: map[string]rueidis.Client{}, logger: logger,
		watched: make(chan struct{}), conns: map[*followed]struct{}{},
	}
	for _, address := range option.InitAddress {
		own := rueidis.ClientOption{
			InitAddress: []string{address}, Username: username, Password: password, ForceSingleClient: true,
			DisableCache: true, DisableRetry: true, ClientName: "freshet", ClientSetInfo: rueidis.DisableClientSetInfo,
			Dialer: net.Dialer{Timeout: sentinelTimeout}, ConnWriteTimeout: sentinelTimeout,
		}
		if option.TLSConfig != nil {
			own.TLSConfig = withServerName(option.TLSConfig, address)
		}
		client, err := rueidis.NewClient(own)
		if client == nil {
			s.closeClients()
			return nil, fmt.Errorf("open sentinel %s: %w", address, err)
		}
		s.clients[address] = client // with an error as well: it is away now
	}
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go s.watch(ctx)
	return s, nil
}

func (s *sentinels) closeClients() {
	for _, client := range s.clients {
		client.Close()
	}
}

func (s *sentinels) close() {
	s.cancel()
	<-s.watched
	s.closeClients()
}

func withServerName(config *tls.Config, address string) *tls.Config {
	own := config.Clone()
	own.ServerName, _, _ = net.SplitHostPort(address) // what does not split was not dialled either
	return own
}

// ask asks one Sentinel.
func (s *sentinels) ask(ctx context.Context, client rueidis.Client) (sentinelReply, error) {
	ctx, cancel := context.WithTimeout(ctx, sentinelTimeout)
	defer cancel()
	// While it fails over, the first has the old master's address and the new configuration's epoch already.
	replies := client.DoMulti(ctx, client.B().Arbitrary("SENTINEL", "MASTER", s.master).Build(),
		client.B().SentinelGetMasterAddrByName().Master(s.master).Build())
	fields, err := replies[0].AsStrMap()
	if err != nil {
		return sentinelReply{}, typed(err)
	}
	at, err := replies[1].AsStrSlice()
	if err != nil {
		return sentinelReply{}, typed(err)
	}
	if len(at) != 2 {
		return sentinelReply{}, fmt.Errorf("answer of %d parts: %w", len(at), ErrRefused)
	}
	number := func(name string) int {
		n, err := strconv.Atoi(fields[name])
		if err != nil {
			return 0 // said by no Sentinel that there is
		}
		return n
	}
	return sentinelReply{
		address: net.JoinHostPort(at[0], at[1]), epoch: int64(number("config-epoch")),
		sentinels: number("num-other-sentinels") + 1, quorum: number("quorum"), replicas: number("num-slaves"),
	}, nil
}

// askAll asks every Sentinel and returns the answer of the latest configuration: one that was cut off names the master
// of before. Of those that did not answer, or too late, it returns why.
func (s *sentinels) askAll(ctx context.Context) (latest sentinelReply, silent map[string]error) {
	ctx, cancel := context.WithCancel(ctx)
	type said struct {
		address string
		reply   sentinelReply
		err     error
	}
	answers := make(chan said)
	var asking sync.WaitGroup
	for address, client := range s.clients {
		asking.Go(func() {
			reply, err := s.ask(ctx, client)
			select {
			case answers <- said{address, reply, err}:
			case <-ctx.Done():
			}
		})
	}
	defer asking.Wait()
	defer cancel()
	silent = make(map[string]error, len(s.clients))
	for address := range s.clients {
		silent[address] = fmt.Errorf("%w in time", ErrUnavailable)
	}
	timer := time.NewTimer(2 * sentinelTimeout)
	defer timer.Stop()
	for range s.clients {
		select {
		case a := <-answers:
			if a.err != nil {
				silent[a.address] = a.err
				continue
			}
			delete(silent, a.address)
			if latest.address == "" || a.reply.epoch > latest.epoch {
				latest = a.reply
			}
			timer.Reset(otherSentinels)
		case <-timer.C:
			return latest, silent
		}
	}
	return latest, silent
}

// present is the address of the master.
func (s *sentinels) present(ctx context.Context) (string, error) {
	reply, silent := s.askAll(ctx)
	if reply.address == "" {
		errs := []error{fmt.Errorf("%w %q", errNoSentinel, s.master)}
		for _, address := range slices.Sorted(maps.Keys(silent)) {
			errs = append(errs, fmt.Errorf("sentinel %s: %w", address, silent[address]))
		}
		return "", errors.Join(errs...)
	}
	return s.learn(reply), nil
}

// learn takes an answer up, unless a later one is known, ends the connections to other servers, and returns the master.
func (s *sentinels) learn(reply sentinelReply) string {
	s.mu.Lock()
	if reply.epoch >= s.current.epoch {
		s.current = reply
	}
	master := s.current.address
	var others []*followed
	for conn := range s.conns {
		if conn.address != master {
			others = append(others, conn)
		}
	}
	s.mu.Unlock()
	for _, conn := range others {
		s.logger.Warn("redis has another master now", slog.String("was", conn.address), slog.String("is", master))
		_ = conn.Close() // whoever uses it finds out
	}
	return master
}

// watch looks at the master for as long as there is a connection to one.
func (s *sentinels) watch(ctx context.Context) {
	defer close(s.watched)
	ticker := time.NewTicker(sentinelGap)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		idle := len(s.conns) == 0
		s.mu.Unlock()
		if idle {
			continue
		}
		_, _ = s.present(ctx) // Sentinels that are away leave everything as it is
	}
}

// dial connects to the master.
func (s *sentinels) dial(ctx context.Context, _ string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	address, err := s.present(ctx)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	if config != nil {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: withServerName(config, address)}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = dialer.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("dial master %s: %w", address, err)
	}
	own := &followed{Conn: conn, address: address, by: s}
	s.mu.Lock()
	s.conns[own] = struct{}{}
	moved := s.current.address != address
	s.mu.Unlock()
	if moved { // while it was dialled
		return nil, errors.Join(fmt.Errorf("%w: the master has moved from %s", ErrUnavailable, address), own.Close())
	}
	return own, nil
}

// followed is a connection that ends when its server is not the master any more.
type followed struct {
	net.Conn

	address string
	by      *sentinels
}

// Close ends the connection.
func (f *followed) Close() error {
	f.by.mu.Lock()
	delete(f.by.conns, f)
	f.by.mu.Unlock()
	return f.Conn.Close()
}

// Sentinels is what the check command asks the Sentinels about.
type Sentinels struct {
	Master   string           // its name
	Address  string           // the present master; empty: nobody knows
	Named    int              // by the configuration
	Silent   map[string]error // those of them that do not answer, and why
	Known    int              // Sentinels that know of each other
	Quorum   int
	Replicas int
}

// Sentinels asks every Sentinel; nil when the store is not watched by any.
func (s *Store) Sentinels(ctx context.Context) *Sentinels {
	if s.sentinels == nil {
		return nil
	}
	reply, silent := s.sentinels.askAll(ctx)
	return &Sentinels{
		Master: s.sentinels.master, Address: reply.address, Named: len(s.sentinels.clients), Silent: silent,
		Known: reply.sentinels, Quorum: reply.quorum, Replicas: reply.replicas,
	}
}
