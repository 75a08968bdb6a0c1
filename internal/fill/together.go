package fill

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// together has those ask the store once who are about to ask it the same at the same time, as when a key that many read goes. A question is
// joined only before it is asked, so nobody gets an answer from before he came: what R6 wants a waiter to have seen himself, he has.
type together[T any] struct {
	asking atomic.Int32 // questions under way, and those who wait for their answers
	mu     sync.Mutex
	open   map[string]*question[T] // not asked yet
}

type question[T any] struct {
	done   chan struct{} // closed when there is an answer
	answer T
	err    error
	gone   bool // who asked did not wait for the answer: the others ask for themselves
}

// ask answers what, by asking or with the answer of another one who does; first says which.
func (t *together[T]) ask(ctx context.Context, what string, ask func() (T, error)) (answer T, first bool, err error) {
	crowded := t.asking.Add(1) > 1
	defer t.asking.Add(-1)
	for {
		q, first := t.join(what)
		if first {
			if crowded {
				runtime.Gosched() // who can run, and is about to ask, joins
			}
			t.close(what)
			q.put(ctx, ask)
			return q.answer, true, q.err
		}
		select {
		case <-q.done:
		case <-ctx.Done():
			return answer, false, ctx.Err()
		}
		if !q.gone {
			return q.answer, false, q.err
		}
	}
}

// put asks, and wakes whoever waits for the answer.
func (q *question[T]) put(ctx context.Context, ask func() (T, error)) {
	defer close(q.done)
	q.answer, q.err = ask()
	q.gone = q.err != nil && ctx.Err() != nil
}

// join finds a question that is not asked yet, or is the first who has it.
func (t *together[T]) join(what string) (q *question[T], first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if there := t.open[what]; there != nil {
		return there, false
	}
	if t.open == nil {
		t.open = map[string]*question[T]{}
	}
	q = &question[T]{done: make(chan struct{}), err: errExited}
	t.open[what] = q
	return q, true
}

// close lets nobody else join.
func (t *together[T]) close(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, what)
}

// leased is the answer to a LEASE, and the token that it was asked for with.
type leased struct {
	reply store.LeaseReply
	token fence.Token
}

// leaseOnce asks for the lease, for all of this process who are about to: at most one of them has it.
func (r *Reader) leaseOnce(ctx context.Context, w *want) (token fence.Token, reply store.LeaseReply, err error) {
	answer, first, err := r.leases.ask(ctx, w.name+"\x00"+w.dead, func() (leased, error) {
		token := newToken()
		reply, err := r.lease(ctx, w, token)
		return leased{reply, token}, err
	})
	if reply = answer.reply; !first && reply.Granted {
		reply.Granted, reply.Holder = false, answer.token
	}
	return answer.token, reply, err
}

// looked is what is found at a key.
type looked struct {
	record fence.Record
	dead   string
}

// glanceOnce is glance, for all of this process who are about to look.
func (r *Reader) glanceOnce(ctx context.Context, w *want, l *listener) (fence.Record, error) {
	what := w.name
	if l != nil && l.asks != nil {
		what += "\x00" // each of them is told of changes after a look that has the store tell
	}
	answer, _, err := r.glances.ask(ctx, what, func() (looked, error) {
		record, err := r.glance(ctx, w, l)
		return looked{record, w.dead}, err
	})
	w.dead = answer.dead
	return answer.record, err
}
