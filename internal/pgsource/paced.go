package pgsource

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// How the socket is read.
const (
	readBuffer = 256 << 10
	// pause is how long the reader lets the socket fill before it reads again, while it is behind. Reading eagerly
	// costs one wake-up of both processes for each message, which halves the rate.
	pause = 500 * time.Microsecond
	// quickReads is how many reads in a row, none of which had to wait for quick, say that the server is sending all
	// the time. A few messages in a row are one transaction, which is not to be kept waiting.
	quickReads = 32
	quick      = time.Millisecond
	// oldCommit is the age of a commit that says the same, when the clocks agree.
	oldCommit = 50 * time.Millisecond
	// smallPauses is after how many pauses in a row that brought less than fullPause the reader has caught up. For
	// distrust after that, a commit's age counts for nothing: the clocks may differ.
	smallPauses = 4
	fullPause   = 512
	distrust    = time.Second
)

// pacedReader reads a connection in large pieces. Up to date it never waits; behind, it lets the socket fill first.
//
// It also holds the deadline: nothing read for longer than patience is an error. Deadlines are moved only now and
// then, since each move is a system call's worth of work.
type pacedReader struct {
	source io.Reader
	conn   net.Conn // for deadlines; nil until the stream has started, when nothing is paced either

	buf        []byte
	start, end int

	patience time.Duration
	deadline time.Time // what was set last
	last     time.Time // when the last read returned
	timer    *time.Timer

	behind bool      // pause before the next read
	full   bool      // the last read filled the buffer: more is there already
	quick  int       // reads in a row that hardly waited
	small  int       // pauses in a row that brought little
	trust  time.Time // from when on a commit's age counts

	waiting atomic.Bool   // inside a read of the socket
	reads   atomic.Uint64 // reads that returned something

	mu     sync.Mutex
	halted chan struct{} // closed by halt
	cause  error         // why
}

func newPacedReader(source io.Reader) *pacedReader {
	return &pacedReader{source: source, buf: make([]byte, readBuffer), halted: make(chan struct{})}
}

// stream begins pacing, with deadlines set on conn.
func (r *pacedReader) stream(conn net.Conn, patience time.Duration) {
	r.conn, r.patience = conn, patience
	r.timer = time.NewTimer(time.Hour)
	r.timer.Stop()
}

// halt ends a Read that is under way and every later one with cause. The first cause stays.
func (r *pacedReader) halt(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cause != nil {
		return
	}
	r.cause = cause
	close(r.halted)
	r.interrupt()
}

// interrupt wakes a read by a deadline that has passed. r.mu is held, so that fill does not move it away again.
func (r *pacedReader) interrupt() {
	if r.conn != nil {
		_ = r.conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection, whose reads fail by themselves
	}
}

// haltCause is what halt was called with, nil before.
func (r *pacedReader) haltCause() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cause
}

// Read copies out what is buffered, and reads the connection when that is nothing.
func (r *pacedReader) Read(p []byte) (int, error) {
	if r.start == r.end {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.start:r.end])
	r.start += n
	return n, nil
}

// fill reads the connection once.
func (r *pacedReader) fill() error {
	r.start, r.end = 0, 0
	if r.conn == nil {
		n, err := r.source.Read(r.buf)
		r.end = n
		return err
	}
	if r.behind && !r.full {
		r.timer.Reset(pause)
		select {
		case <-r.timer.C:
		case <-r.halted:
			return r.haltCause()
		}
	}
	now := time.Now()
	if err := r.extend(now); err != nil {
		return err
	}
	r.waiting.Store(true)
	n, err := r.source.Read(r.buf)
	r.waiting.Store(false)
	if n > 0 {
		r.reads.Add(1)
		r.last = time.Now()
		r.pace(r.last.Sub(now), n)
		r.end = n
		return nil // an error that came with bytes comes again with the next read
	}
	if cause := r.haltCause(); cause != nil {
		return cause
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// extend moves the read deadline when it has come closer by a tenth.
func (r *pacedReader) extend(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cause != nil {
		return r.cause
	}
	if want := now.Add(r.patience); want.Sub(r.deadline) > r.patience/10 {
		r.deadline = want
		return r.conn.SetReadDeadline(want)
	}
	return nil
}

// pace decides whether to let the socket fill before the next read, given that the last one took so long to return n
// bytes.
func (r *pacedReader) pace(took time.Duration, n int) {
	r.full = n == len(r.buf)
	switch {
	case r.behind && n >= fullPause:
		r.small = 0
	case r.behind:
		r.small++
		if r.small >= smallPauses {
			r.behind, r.quick, r.trust = false, 0, r.last.Add(distrust)
		}
	case took >= quick:
		r.quick = 0
	default:
		r.quick++
		if r.quick >= quickReads {
			r.behind, r.small = true, 0
		}
	}
}

// committed tells when the transaction that is being read was committed, by the server's clock.
func (r *pacedReader) committed(at time.Time) {
	if !r.behind && r.last.Sub(at) > oldCommit && r.last.After(r.trust) {
		r.behind, r.small = true, 0
	}
}
