package pgsource

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// How the socket is read.
const (
	readBuffer = 256 << 10
	// oldCommit is the age at which a commit says that the reader is behind. It then lets the socket fill before it
	// reads again: reading eagerly costs both processes a wake-up for each message, which halves the rate, and more on a
	// busy machine.
	oldCommit = 25 * time.Millisecond
	// Such a pause delays nothing by more than a small share of how late it is already.
	pauseShare = 50
	leastPause = 200 * time.Microsecond
	mostPause  = 4 * time.Millisecond
	// It is as long as it takes for so many bytes to come in, well below what a socket holds.
	smallRead = 8 << 10
	largeRead = 32 << 10
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
	timer    *time.Timer
	raw      syscall.RawConn // nil when the connection is not TCP

	age   time.Duration // of the transaction that is being read: from its commit until the server sent it
	pause time.Duration // before the next read, when that age calls for one
	full  bool          // the last read filled the buffer: more is there already

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
	if r.raw = rawTCP(conn); r.raw != nil {
		narrow(r.raw)
	}
	r.timer = time.NewTimer(time.Hour)
	r.timer.Stop()
}

// rawTCP is the TCP socket under a connection, nil when there is none.
func rawTCP(conn net.Conn) syscall.RawConn {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	socket, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
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
	if r.age >= oldCommit && !r.full {
		if err := r.linger(min(r.pause, r.age/pauseShare)); err != nil {
			return err
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
		r.pace(n)
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

// linger lets the socket fill for a while.
func (r *pacedReader) linger(d time.Duration) error {
	if r.raw != nil {
		if err := wakeAt(r.raw, largeRead); err != nil {
			return err
		}
	}
	r.timer.Reset(d)
	select {
	case <-r.timer.C:
	case <-r.halted:
		return r.haltCause()
	}
	if r.raw != nil {
		return wakeAt(r.raw, 1)
	}
	return nil
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

// pace makes the next pause longer when the last read returned little, and shorter when it returned much.
func (r *pacedReader) pace(n int) {
	r.full = n == len(r.buf)
	switch {
	case n < smallRead:
		r.pause = min(2*r.pause, mostPause)
	case n > largeRead:
		r.pause /= 2
	}
	r.pause = max(r.pause, leastPause)
}
