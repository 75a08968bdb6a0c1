package redisstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// Every error but ErrUnavailable means that the store answered and did not do what was asked.
var (
	// ErrReadOnly is a replica's answer: the connection is not to the master any more.
	ErrReadOnly = errors.New("redis is read-only")
	// ErrLoading is the answer of a server that is still reading its data.
	ErrLoading = errors.New("redis is loading its data")
	// ErrMoved is the answer of a cluster's node that does not hold the key.
	ErrMoved = errors.New("redis cluster holds the key elsewhere")
	// ErrNoScript says that the server lost a script, although it was just sent with its text.
	ErrNoScript = errors.New("redis does not know the script")
	// ErrRefused wraps every other error reply.
	ErrRefused = errors.New("redis refuses the command")
	// ErrNoHistory says that the server does not name its history (master_replid): what hides failovers can keep no
	// promise, since a lost confirm could not be told from one that was never made.
	ErrNoHistory = errors.New("redis does not name its history: INFO replication has no master_replid, so that a failover could not be noticed")
)

// typed gives an error of the client one of this package's types.
func typed(err error) error {
	if err == nil {
		return nil
	}
	reply, ok := rueidis.IsRedisErr(err)
	if !ok {
		if rueidis.IsParseErr(err) || errors.Is(err, fence.ErrFormat) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	text := reply.Error()
	code, _, _ := strings.Cut(text, " ")
	kind := ErrRefused
	switch code {
	case "READONLY":
		kind = ErrReadOnly
	case "LOADING", "MASTERDOWN":
		kind = ErrLoading
	case "MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN":
		kind = ErrMoved
	case "NOPERM", "NOAUTH", "WRONGPASS":
		kind = ErrNoPermission
	case "OOM", "-OOM":
		kind = ErrOutOfMemory
	case "NOSCRIPT":
		kind = ErrNoScript
	}
	return fmt.Errorf("%w: %s", kind, text)
}
