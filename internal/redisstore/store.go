// Package redisstore keeps records, HEAD and roster in Redis or Valkey. Its scripts do what internal/fence decides;
// docs/redis.md has the bytes, docs/protocol.md the reasons.
//
// A Store serves readers over one shared connection, pipelined. The daemon writes over a Conn, which is one connection
// and never silently becomes another: everything between an INTENT and its ADVANCE must have gone to one server.
package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

const (
	// replyTimeout is for the daemon's Conn: a reply that takes longer means a dead connection. It may take a while: a
	// batch deletes many keys, and the daemon loses more by a new connection than by waiting.
	replyTimeout = 5 * time.Second
	// nodeTimeout is the same for a node of a cluster. One that hangs costs its own lanes then, for which the others have waited.
	nodeTimeout = 2 * time.Second
	dialTimeout = time.Second
	// readTimeout is the same for readers, who have a database to ask instead: none of them is to wait long for a store
	// that hangs. It bounds a connection's being made as well.
	readTimeout = 500 * time.Millisecond
	// pingGap is how long a shared connection may be silent before it must answer a PING within readTimeout; that is what
	// bounds the commands of callers that share it, so that they need no timers of their own. A hang is noticed after two
	// gaps and readTimeout at most.
	pingGap = 125 * time.Millisecond
)

// Options say which store to open.
type Options struct {
	// URL is redis://, rediss:// or unix://, of Redis or Valkey. With the parameter master_set it names Sentinels, further ones as
	// addr, and user, password and database are those of the servers that they watch. With addr alone, or with cluster=true, it
	// names nodes of a Redis Cluster. With rediss:// sslrootcert, sslcert and sslkey name files, for all of them.
	URL              string
	SentinelUsername string
	SentinelPassword string
	Namespace        string
	Logger           *slog.Logger // nil: none
	Near             Near         // is told of changes of what was read; nil: those alone who call Listen are, of what they read then
	// Patience is how long a reader waits for an answer, or a connection, before it takes the store to be away. 0: readTimeout.
	Patience time.Duration
}

// Store is one namespace in one Redis.
type Store struct {
	client    rueidis.Client // the readers'; in a cluster not for keys
	sentinels *sentinels     // nil: the address is the server's own
	cluster   *cluster       // nil: it is one server
	tracker   *tracker       // of client; nil in a cluster
	ears      *store.Ears    // nil: there is a Near
	lone      *lone          // nil: readers share a connection, or the connections of a cluster, and nothing else
	namespace string
	lanes     int // 1, or those of a cluster
	scripts   *scripts
	logger    *slog.Logger
	joints    [fence.Lanes]joints // reads with HEAD, by lane
	vouched   []string            // the fields by which it is judged what HEAD says of a value that was read after it

	option rueidis.ClientOption // the daemon's
	mu     sync.Mutex
	daemon rueidis.Client // opened by the first Connect: most processes only read
	closed bool
}

// Open prepares a store. It does not need Redis to be there: whatever is asked while it is away fails with
// ErrUnavailable, and a later call connects.
func Open(ctx context.Context, o Options) (*Store, error) {
	option, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Namespace == "" || strings.ContainsAny(o.Namespace, "{}*?[]\\: ") {
		return nil, fmt.Errorf("open redis: namespace %q: it must not be empty or contain one of {}*?[]\\: or a space", o.Namespace)
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{namespace: o.Namespace, scripts: newScripts(), logger: logger, lanes: 1}
	var seeds []string
	switch {
	case option.Sentinel.MasterSet != "":
		if s.sentinels, err = openSentinels(ctx, option, o.SentinelUsername, o.SentinelPassword, logger); err != nil {
			return nil, fmt.Errorf("open redis: %w", maskURL(err, o.URL))
		}
		// For the client it is one server, whose address is looked up whenever a connection is made.
		option.InitAddress, option.Sentinel = []string{option.Sentinel.MasterSet}, rueidis.SentinelOption{}
		option.DialCtxFn = s.sentinels.dial //nolint:forbidigo // the client's name for it
	case clustered(option, o.URL):
		if option.SelectDB != 0 {
			return nil, errors.New("open redis: a Redis Cluster has no other database than 0")
		}
		s.lanes, seeds = fence.Lanes, option.InitAddress
		option.InitAddress = seeds[:1]
	}
	s.vouched = s.headFields(vouchedFields())
	reply := replyTimeout
	if seeds != nil {
		reply = nodeTimeout
	}
	s.option = timed(option, reply, dialTimeout, time.Second)
	patience := cmp.Or(o.Patience, readTimeout)
	option = timed(option, patience, patience, pingGap)
	whole := option
	told := o.Near
	if told == nil {
		s.ears = store.NewEars()
		told = s.ears
	}
	if seeds == nil {
		s.tracker = trackWith(&option, told, logger)
	}
	if s.ears != nil && seeds == nil {
		s.lone = s.newLone(whole)
	}
	s.client, err = rueidis.NewClient(option)
	if s.client == nil {
		if s.sentinels != nil {
			s.sentinels.close()
		}
		return nil, fmt.Errorf("open redis: %w", maskURL(err, o.URL))
	}
	// An error together with a client is a server that is away now; the client dials again with the next command.
	if seeds != nil {
		whole.InitAddress = seeds
		s.cluster = openCluster(ctx, whole, told, logger)
	}
	return s, nil
}

// clustered reports whether an address names nodes of a cluster.
func clustered(option rueidis.ClientOption, address string) bool {
	parsed, err := url.Parse(address)
	return len(option.InitAddress) > 1 || err == nil && parsed.Query().Get("cluster") == "true"
}

// parseURL reads an address, and says how every client of this package behaves.
func parseURL(address string) (rueidis.ClientOption, error) {
	option, err := rueidis.ParseURL(address)
	if err != nil {
		return option, fmt.Errorf("parse redis url: %w", maskURL(err, address))
	}
	if err := certify(&option, address); err != nil {
		return option, err
	}
	option.ForceSingleClient = true
	option.PipelineMultiplex = -1 // one connection: LEASE and the HEAD after it share it, and pipelines stay deep
	option.DisableCache = true    // a value is believed because of when it was read; a client's own copy has no such time
	// No command is repeated behind our back. A LEASE that was sent twice could be granted once more after its reader
	// has loaded, and would then let an old row in. Readers that get an error go to the database.
	option.DisableRetry = true
	option.ClientName = "freshet"
	option.ClientSetInfo = rueidis.DisableClientSetInfo
	return option, nil
}

// timed says how long a client waits. An address that says how long a connection may take to be made is obeyed.
func timed(option rueidis.ClientOption, reply, dial, gap time.Duration) rueidis.ClientOption {
	option.ConnWriteTimeout = reply
	if option.Dialer.Timeout == 0 {
		option.Dialer.Timeout = dial
	}
	option.Dialer.KeepAlive = gap
	return option
}

// dedicate takes a connection of the daemon's client. In a cluster it leads to the first node that is named.
func (s *Store) dedicate() (rueidis.DedicatedClient, error) {
	client, err := s.daemonClient()
	if err != nil {
		return nil, err
	}
	dedicated, _ := client.Dedicate()
	return dedicated, nil
}

func (s *Store) daemonClient() (rueidis.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, rueidis.ErrClosing)
	}
	if s.daemon == nil {
		client, err := rueidis.NewClient(s.option)
		if client == nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		s.daemon = client // with an error as well: the server is away, which a connection's first command says
	}
	return s.daemon, nil
}

// maskURL keeps a password in the address out of errors.
func maskURL(err error, address string) error {
	if err == nil || !strings.Contains(address, "@") {
		return err
	}
	return errors.New("the address is malformed (not shown, since it has a password)")
}

// Close ends the readers' connection, and whatever Connect made.
func (s *Store) Close() {
	if s.lone != nil {
		s.lone.close()
	}
	s.client.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.daemon != nil {
		s.daemon.Close()
	}
	if s.sentinels != nil {
		s.sentinels.close()
	}
	if s.cluster != nil {
		s.cluster.close()
	}
}

func (s *Store) prefix() string { return "f:" + s.namespace + ":" }
