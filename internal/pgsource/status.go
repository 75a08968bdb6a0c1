package pgsource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet/freshet/mvcc"
)

const (
	// statusTick is how soon a new confirmation is sent: so many of them are sent as one.
	statusTick = 200 * time.Millisecond
	// quietTicks is after how many ticks without a word from the server it is asked how far it is.
	quietTicks = 5
)

// statusWriter sends standby status updates, from a goroutine of its own: they go on while the sink holds Run up.
type statusWriter struct {
	conn     net.Conn
	reader   *pacedReader
	interval time.Duration

	received  atomic.Uint64 // written by Run
	confirmed atomic.Uint64 // only grows
	asked     chan struct{} // capacity 1: the server wants an update at once
	asking    chan struct{} // capacity 1: somebody wants to hear of the server
	stopping  chan struct{}
	stopped   chan struct{}
}

func (w *statusWriter) init(conn net.Conn, reader *pacedReader, confirmed mvcc.LSN, interval time.Duration) {
	w.conn, w.reader, w.interval = conn, reader, interval
	w.confirmed.Store(uint64(confirmed))
	w.asked, w.asking = make(chan struct{}, 1), make(chan struct{}, 1)
	w.stopping, w.stopped = make(chan struct{}), make(chan struct{})
}

// receive remembers that everything before position has arrived. Only Run calls it.
func (w *statusWriter) receive(position uint64) {
	if position > w.received.Load() {
		w.received.Store(position)
	}
}

// confirm raises the confirmed position.
func (w *statusWriter) confirm(position uint64) {
	for {
		old := w.confirmed.Load()
		if position <= old || w.confirmed.CompareAndSwap(old, position) {
			return
		}
	}
}

// answer has an update sent at once.
func (w *statusWriter) answer() {
	select {
	case w.asked <- struct{}{}:
	default: // one is due already
	}
}

// ask has the server asked at once how far it is.
func (w *statusWriter) ask() {
	select {
	case w.asking <- struct{}{}:
	default:
	}
}

// run sends updates until stop. A connection that cannot be written to ends Run.
func (w *statusWriter) run() {
	defer close(w.stopped)
	tick := time.NewTicker(statusTick)
	defer tick.Stop()
	var (
		sent      = time.Now()
		confirmed uint64 // as sent last: none yet, so that the first tick says hello
		reads     uint64
		quiet     int
	)
	for {
		ask := false
		select {
		case <-w.stopping:
			return
		case <-w.asked:
		case <-w.asking:
			ask = true
		case now := <-tick.C:
			quiet++
			if n := w.reader.reads.Load(); n != reads || !w.reader.waiting.Load() {
				reads, quiet = n, 0
			}
			ask = quiet >= quietTicks
			if !ask && w.confirmed.Load() == confirmed && now.Sub(sent) < w.interval {
				continue
			}
		}
		if ask {
			quiet = 0
		}
		confirmed, sent = w.confirmed.Load(), time.Now()
		if err := w.send(confirmed, ask, sent.Add(w.reader.patience)); err != nil {
			w.reader.halt(fmt.Errorf("send status: %w", err))
			return
		}
	}
}

// send writes one standby status update: what was received as written, and as flushed and applied only what was
// confirmed, which is what lets the slot forget. It never says 0, nor what a keepalive said.
func (w *statusWriter) send(confirmed uint64, ask bool, deadline time.Time) error {
	var m [1 + 4 + 1 + 4*8 + 1]byte
	m[0] = 'd'
	binary.BigEndian.PutUint32(m[1:], uint32(len(m)-1))
	m[5] = 'r'
	binary.BigEndian.PutUint64(m[6:], max(w.received.Load(), confirmed))
	binary.BigEndian.PutUint64(m[14:], confirmed)
	binary.BigEndian.PutUint64(m[22:], confirmed)
	binary.BigEndian.PutUint64(m[30:], uint64(time.Now().UnixMicro()-microsTo2000)) //nolint:gosec // the wire's signed field
	if ask {
		m[38] = 1
	}
	if err := w.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := w.conn.Write(m[:])
	return err
}

// stop ends run and waits for it.
func (w *statusWriter) stop() {
	close(w.stopping)
	_ = w.conn.SetWriteDeadline(time.Unix(1, 0)) // a write that hangs ends; farewell sets its own
	<-w.stopped
}

// farewellTime bounds how long the server may take to notice that we leave.
const farewellTime = 2 * time.Second

// farewell sends the last update and ends the session in order, waiting for the server to have read both: otherwise
// the slot would stay in use, and its last confirmation unread, for a moment after Close.
func (w *statusWriter) farewell(ctx context.Context, frontend *pgproto3.Frontend) error {
	deadline := time.Now().Add(farewellTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := w.send(w.confirmed.Load(), false, deadline); err != nil {
		if w.reader.haltCause() != nil && !errors.Is(w.reader.haltCause(), errClosed) {
			return nil // the stream had ended by itself, with an error that Run returned
		}
		return fmt.Errorf("send last status: %w", err)
	}
	frontend.Send(&pgproto3.CopyDone{})
	frontend.Send(&pgproto3.Terminate{})
	if err := frontend.Flush(); err != nil {
		return nil //nolint:nilerr // the server has gone before us
	}
	w.drain(deadline)
	return nil
}

// drain reads until the server has closed its end. It pauses between reads, because a server in the middle of a large
// transaction looks at what it was sent only when it cannot write on.
func (w *statusWriter) drain(deadline time.Time) {
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return
	}
	buf := w.reader.buf
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for {
		if _, err := w.conn.Read(buf); err != nil {
			return // closed, reset, or out of time: left either way
		}
		<-pace.C
	}
}
