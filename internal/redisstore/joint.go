package redisstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// maxJoint is how many reads share one HEAD: beyond that HEAD is a small part of what they cost, and those who came first
// would wait for the last.
const maxJoint = 32

// joint is one HEAD and the records that are read after it, in one pipeline on one connection. What HEAD vouches for is true
// of every record that is read after it, so reads that come at the same time need one HEAD between them. A read joins only
// before the pipeline is sent: it gets nothing that was read before it began.
type joint struct {
	asks []ask
	done chan struct{} // closed when all that follows is there
	head *parsed       // nil: err says why
	err  error
	// abandoned says that who sent the pipeline has not waited for its answer: the others ask for themselves.
	abandoned bool
	records   []rueidis.RedisResult
}

// ask is a record that is asked for, with epochs.
type ask struct {
	name   string
	epochs []string
}

// parsed is a HEAD, and the text that it was made from. It is not changed once it is made.
type parsed struct {
	fields []field
	head   fence.Head
	found  bool
}

// joints are the reads with HEAD of one lane.
type joints struct {
	reading atomic.Int32 // reads under way
	mu      sync.Mutex
	open    *joint // not sent yet; nil: none
	last    atomic.Pointer[parsed]
}

// join makes a read one of those that are about to be sent. Whoever is the first has to send them.
func (l *joints) join(a ask) (j *joint, at int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = &joint{done: make(chan struct{}), err: errNotSent}
	}
	j, at = l.open, len(l.open.asks)
	if j.asks = append(j.asks, a); len(j.asks) == maxJoint {
		l.open = nil
	}
	return j, at
}

// close lets nobody else join.
func (l *joints) close(j *joint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == j {
		l.open = nil
	}
}

// errNotSent is what is left in a joint if who had to send it did not come to it.
var errNotSent = errors.New("the pipeline was not sent")

// ReadWithHead reads HEAD and then a record with epochs: in one pipeline on one connection, in this order, so that what HEAD
// vouches for is true of the record. Reads of a lane that come at the same time share the HEAD.
func (s *Store) ReadWithHead(ctx context.Context, name string, epochs []string) (head fence.Head, found bool, held Tied, err error) {
	to, err := s.to(name)
	if err != nil {
		return fence.Head{}, false, Tied{}, fmt.Errorf("read head: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fence.Head{}, false, Tied{}, fmt.Errorf("read head: %w", err)
	}
	l, a := &s.joints[to.lane], ask{name: name, epochs: epochs}
	alone := l.reading.Add(1) == 1
	defer l.reading.Add(-1)
	j, at := l.join(a)
	if at == 0 {
		if !alone {
			// Whoever can run and is about to read joins. Where processors are idle nobody waits to run, and this takes no time.
			runtime.Gosched()
		}
		l.close(j)
		s.sendJoint(ctx, &to, j)
	} else {
		select {
		case <-j.done:
		case <-ctx.Done():
			return fence.Head{}, false, Tied{}, fmt.Errorf("read head: %w", ctx.Err())
		}
		if j.abandoned {
			j, at = &joint{asks: []ask{a}, done: make(chan struct{})}, 0
			s.sendJoint(ctx, &to, j)
		}
	}
	return j.answer(&to, at)
}

// sendJoint sends the pipeline and waits for its answer.
func (s *Store) sendJoint(ctx context.Context, to *route, j *joint) {
	defer close(j.done)
	replies := to.client.DoMulti(ctx, s.pipeline(to.lane, j.asks, s.callRead)...)
	if isNoScript(replies[0].Error()) {
		replies = to.client.DoMulti(ctx, s.pipeline(to.lane, j.asks, s.sendRead)...)
	}
	j.records = replies[1:]
	if j.head, j.err = s.joints[to.lane].parse(replies[0], s.vouched); j.err != nil {
		_ = to.typed(replies[0].Error())
		j.abandoned = ctx.Err() != nil
	}
}

// pipeline is HEAD, and the records after it.
func (s *Store) pipeline(lane int, asks []ask, call func(c script, keys, args []string) rueidis.Completed) []rueidis.Completed {
	commands := make([]rueidis.Completed, 0, 1+len(asks))
	commands = append(commands, s.headFor(lane, s.vouched, call))
	for _, a := range asks {
		if len(a.epochs) == 0 {
			commands = append(commands, s.readPlain(a.name))
		} else {
			commands = append(commands, s.readTied(a.name, a.epochs))
		}
	}
	return commands
}

// answer is what one of those who have joined gets.
func (j *joint) answer(to *route, at int) (head fence.Head, found bool, held Tied, err error) {
	if j.err != nil {
		return fence.Head{}, false, Tied{}, j.err
	}
	if epochs := j.asks[at].epochs; len(epochs) > 0 {
		held, err = parseTied(j.records[at], len(epochs))
	} else {
		held.Text, err = textOf(j.records[at])
	}
	if err != nil {
		return fence.Head{}, false, Tied{}, fmt.Errorf("get record: %w", to.typed(err))
	}
	return j.head.head, j.head.found, held, nil
}

// parse is parseHead. HEAD changes far less often than it is read: one with the text of the last is that one.
func (l *joints) parse(reply rueidis.RedisResult, fields []string) (*parsed, error) {
	got, err := fieldsOf(reply, fields)
	if err != nil {
		return nil, err
	}
	if last := l.last.Load(); last != nil && slices.Equal(last.fields, got) {
		return last, nil
	}
	p := &parsed{fields: got}
	if p.head, p.found, err = parseFields(got); err != nil {
		return nil, err
	}
	l.last.Store(p)
	return p, nil
}
