package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// link is one connection of the daemon's to one server. After anything but an answer from the server it is broken for good: a new
// connection could be to a server that never saw what went over this one. It is used by one goroutine at a time.
type link struct {
	address string // in a cluster
	client  rueidis.DedicatedClient
	of      rueidis.Client // closed with it; nil: it is shared
	broken  atomic.Pointer[error]
	known   map[string]bool // digests of the scripts that the server has answered under
}

// end breaks the connection, for the reason that came first.
func (l *link) end(reason error) {
	if !l.broken.CompareAndSwap(nil, &reason) {
		return
	}
	l.client.Close()
	if l.of != nil {
		l.of.Close()
	}
}

// do sends commands in one pipeline. It returns the first error that a reply is; one that is not a server's answer breaks
// the connection, and there are no replies then.
func (l *link) do(ctx context.Context, commands []rueidis.Completed) ([]rueidis.RedisResult, error) {
	if err := l.broken.Load(); err != nil {
		return nil, *err
	}
	if _, bounded := ctx.Deadline(); !bounded && ctx.Err() == nil {
		// Under a context that never ends, or has a deadline, the client writes and reads right here, for replyTimeout at
		// most. Under any other it hands every command to goroutines of its own, and each step of a batch waits for two of
		// them to be woken. A deadline of our own would cost a timer.
		ctx = context.WithoutCancel(ctx)
	}
	replies := l.client.DoMulti(ctx, commands...)
	var first error
	for _, r := range replies {
		if err := r.NonRedisError(); err != nil {
			// The client would go on with the connection after a cancelled call. We do not: a command of unknown fate
			// is in it.
			broken := fmt.Errorf("connection is broken: %w", typed(err))
			l.end(broken)
			return nil, broken
		}
		// That a script is missing says that others have to be sent anew as well, whatever else is wrong.
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) && (first == nil || isNoScript(err)) {
			first = typed(err)
		}
	}
	return replies, first
}

// eval calls a script: by its text the first time, by its digest from then on.
func (l *link) eval(s script, keys []string, args ...string) rueidis.Completed {
	if l.known[s.digest] {
		return l.client.B().Evalsha().Sha1(s.digest).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	}
	return l.client.B().Eval().Script(s.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// run sends the commands that build makes, which call scripts. A server that has forgotten one (SCRIPT FLUSH) gets all
// of them once more, with the texts: they may be done twice, and those behind the missing one may not count as done after it.
func (l *link) run(ctx context.Context, scripts []script, build func() []rueidis.Completed) ([]rueidis.RedisResult, error) {
	replies, err := l.do(ctx, build())
	if errors.Is(err, ErrNoScript) {
		clear(l.known)
		replies, err = l.do(ctx, build())
	}
	if err == nil {
		for _, s := range scripts {
			l.known[s.digest] = true
		}
	}
	return replies, err
}

// headReply is what every script on HEAD answers.
type headReply struct {
	outcome fence.HeadOutcome
	replid  string
	head    fence.Head
	found   bool
}

func parseHeadReply(r rueidis.RedisResult) (headReply, error) {
	parts, err := r.AsStrSlice()
	if err != nil {
		return headReply{}, typed(err)
	}
	if len(parts) < 2 || len(parts)%2 != 0 {
		return headReply{}, fmt.Errorf("answer of %d parts: %w", len(parts), ErrRefused)
	}
	reply := headReply{replid: parts[1]}
	switch parts[0] {
	case fence.Applied.String():
		reply.outcome = fence.Applied
	case fence.Mismatch.String():
		reply.outcome = fence.Mismatch
	case fence.Superseded.String():
		reply.outcome = fence.Superseded
	default:
		return headReply{}, fmt.Errorf("answer %q: %w", parts[0], ErrRefused)
	}
	for i := 2; i < len(parts); i += 2 {
		if err := reply.head.SetField(parts[i], parts[i+1]); err != nil {
			return headReply{}, err
		}
	}
	reply.found = reply.head.Generation != ""
	return reply, nil
}

func (r headReply) err() error {
	return store.Judged(r.outcome, fence.Shard{Head: r.head, Found: r.found, Replid: r.replid})
}
