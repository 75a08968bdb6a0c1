package pgsource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/mvcc"
)

// errClosed ends a Run whose Stream is closed under it.
var errClosed = errors.New("stream is closed")

// Stream is one replication connection that is reading a slot.
//
// From Start to Close one goroutine keeps the connection alive: it is the only one that writes. The caller of Run is
// the only one that reads. So a sink may hold Run up for as long as it likes.
type Stream struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
	reader   *pacedReader
	decoder  *decoder
	status   statusWriter
	logger   *slog.Logger

	askedAt    uint64    // position of the last keepalive that wanted an answer
	askedSince time.Time // the first of those at that position
	asks       int

	running atomic.Bool
	ran     chan struct{} // closed when Run has returned
	heard   chan struct{} // capacity 1: the server said how far it is
	closing sync.Once
	closed  error
}

// Start connects and begins to stream from the given position; 0 is the slot's own confirmed one. A position before
// that is a gap: the server would skip what lies between without a word.
//
// Errors are ErrSlotInUse, *GapError and *SetupError; any other is worth another try.
func Start(ctx context.Context, o Options, from change.Position) (*Stream, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	session, err := openSession(ctx, o)
	if err != nil {
		return nil, err
	}
	position := mvcc.LSN(from)
	switch {
	case from == 0:
		position = session.confirmed
	case position < session.confirmed:
		session.close(ctx)
		return nil, &GapError{Reason: fmt.Sprintf(
			"the stream was to start at %s, and slot %q was confirmed up to %s", position, o.Slot, session.confirmed)}
	}
	hijacked, err := session.replicate(ctx, o, position)
	if err != nil {
		return nil, err
	}
	near := o.Near
	if near == 0 {
		near = session.near
	}
	s := &Stream{
		conn:     hijacked.Conn,
		frontend: hijacked.Frontend,
		reader:   session.reader,
		decoder:  newDecoder(near),
		logger:   o.Logger.With(slog.String("slot", o.Slot)),
		ran:      make(chan struct{}),
		heard:    make(chan struct{}, 1),
	}
	s.reader.stream(s.conn, session.patience())
	s.status.init(s.conn, s.reader, session.confirmed, session.statusInterval(o.StatusInterval))
	s.status.received.Store(uint64(position))
	go s.status.run()
	s.logger.InfoContext(ctx, "replication started",
		slog.String("lsn", position.String()), slog.String("confirmed", session.confirmed.String()))
	return s, nil
}

// Run hands the stream over to sink until something ends it, and says what did: the sink's own error, ctx's, or those
// of Start. It is called once.
func (s *Stream) Run(ctx context.Context, sink change.Sink) error {
	if !s.running.CompareAndSwap(false, true) {
		if cause := s.reader.haltCause(); cause != nil {
			return cause
		}
		return errors.New("stream was run before")
	}
	defer close(s.ran)
	stop := context.AfterFunc(ctx, func() { s.reader.halt(context.Cause(ctx)) })
	defer stop()
	for {
		received, err := s.frontend.Receive()
		if err != nil {
			if cause := s.reader.haltCause(); cause != nil {
				return cause
			}
			return classify("read the log", err)
		}
		switch m := received.(type) {
		case *pgproto3.CopyData:
			if err := s.copyData(ctx, m.Data, sink); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return classify("read the log", pgconn.ErrorResponseToPgError(m))
		case *pgproto3.NoticeResponse:
			if err := s.notice(ctx, m); err != nil {
				return err
			}
		case *pgproto3.ParameterStatus:
			// A reloaded configuration: none of the settings that matter here can change under a session.
		case *pgproto3.CopyDone, *pgproto3.CommandComplete:
			return errors.New("read the log: the server ended the stream")
		default:
			return fmt.Errorf("read the log: unexpected message %T", m)
		}
	}
}

// notice judges a warning. Servers from 18 on skip a publication that is missing, with a warning of this code, where
// the older ones stop.
func (s *Stream) notice(ctx context.Context, m *pgproto3.NoticeResponse) error {
	if m.SeverityUnlocalized == "WARNING" && m.Code == "55000" {
		return &GapError{Reason: "the server does not send everything", Err: errors.New(m.Message)}
	}
	s.logger.DebugContext(ctx, "server notice", slog.String("code", m.Code), slog.String("message", m.Message))
	return nil
}

// The messages inside CopyData.
const (
	copyLog       = 'w'
	copyKeepalive = 'k'

	logHeader = 1 + 8 + 8 + 8 // type, start, end, server's clock
)

func (s *Stream) copyData(ctx context.Context, data []byte, sink change.Sink) error {
	if len(data) == 0 {
		return malformed("empty copy data")
	}
	switch data[0] {
	case copyLog:
		if len(data) < logHeader {
			return malformed("log data of %d bytes is cut short", len(data))
		}
		err := s.dispatch(ctx, data[logHeader:], sink)
		// Both times are by the server's clock.
		s.reader.age = fromMicros(binary.BigEndian.Uint64(data[1+8+8:])).Sub(s.decoder.begin.Committed)
		return err
	case copyKeepalive:
		return s.keepalive(ctx, data, sink)
	}
	return malformed("unknown copy data %q", data[0])
}

// keepalive answers the server, and tells the sink how far the log was read: not inside a transaction, whose end is
// still to come.
func (s *Stream) keepalive(ctx context.Context, data []byte, sink change.Sink) error {
	if len(data) != 1+8+8+1 {
		return malformed("keepalive of %d bytes", len(data))
	}
	position := binary.BigEndian.Uint64(data[1:])
	s.status.receive(position)
	if data[17] != 0 {
		if s.insists(position) {
			return ErrShuttingDown
		}
		s.status.answer()
	}
	defer func() {
		select {
		case s.heard <- struct{}{}:
		default:
		}
	}()
	if s.decoder.open {
		return nil
	}
	return sink.Idle(ctx, change.Position(position))
}

// A server that shuts down waits until everything it sent is confirmed, and asks for that over and over. What is held
// back on purpose (D5) would hold it up for ever.
const (
	insistentAsks = 10
	insistentTime = 5 * time.Second
)

// insists tells that from the rare single questions of a server that goes on.
func (s *Stream) insists(position uint64) bool {
	now := time.Now()
	if position != s.askedAt || now.Sub(s.askedSince) > insistentTime {
		s.askedAt, s.askedSince, s.asks = position, now, 0
	}
	s.asks++
	return s.asks >= insistentAsks
}

// dispatch decodes one message and hands it over.
func (s *Stream) dispatch(ctx context.Context, data []byte, sink change.Sink) error {
	d := s.decoder
	k, err := d.decode(data)
	if err != nil {
		return err
	}
	switch k {
	case kindBegin:
		return sink.Begin(ctx, d.begin)
	case kindInsert, kindUpdate, kindDelete:
		return sink.Row(ctx, &d.row)
	case kindTruncate:
		return sink.Truncate(ctx, &d.truncate)
	case kindMessage:
		return sink.Message(ctx, &d.message)
	case kindCommit:
		s.status.receive(uint64(d.commit.Position))
		return sink.Commit(ctx, d.commit)
	case kindRelation, kindType, kindOrigin:
	}
	return nil
}

// CatchUp waits until Run has handed over everything that the server had sent when it was called, for no longer than d: a
// server's answer comes behind what it sent before. For a stop in order, which need not leave to the next start what is
// on the way already.
func (s *Stream) CatchUp(d time.Duration) {
	select {
	case <-s.heard: // an older answer
	default:
	}
	s.status.ask()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.heard:
	case <-s.ran:
	case <-timer.C:
	}
}

// Confirm says that the slot may forget everything before p. It never goes back, and is sent with the next status
// update, a fraction of a second later.
func (s *Stream) Confirm(p change.Position) { s.status.confirm(uint64(p)) }

// Close ends Run, sends what was confirmed last, and closes the connection. When ctx ends before that, the connection
// is closed as it is. It is legal to call it again.
func (s *Stream) Close(ctx context.Context) error {
	s.closing.Do(func() { s.closed = s.close(ctx) })
	return s.closed
}

func (s *Stream) close(ctx context.Context) error {
	defer s.conn.Close() //nolint:errcheck // nothing is left to be written
	s.reader.halt(errClosed)
	var err error
	if !s.running.CompareAndSwap(false, true) { // from here on nobody can start to read
		select {
		case <-s.ran:
		case <-ctx.Done():
			err = context.Cause(ctx) // a sink that does not return
		}
	}
	s.status.stop()
	if err != nil {
		return fmt.Errorf("close stream: %w", err)
	}
	if err := s.status.farewell(ctx, s.frontend); err != nil {
		return fmt.Errorf("close stream: %w", err)
	}
	return nil
}
