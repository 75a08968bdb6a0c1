package pgsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

const (
	closeTimeout = time.Second
	// quietTimeout replaces wal_sender_timeout where the server has none.
	quietTimeout  = 60 * time.Second
	leastPatience = 5 * time.Second
	longestStatus = 10 * time.Second
	// answerTimeout is for what the server has to look up.
	answerTimeout = 10 * time.Second
	// startTimeout is for the start of replication, before which the server clears what earlier readers of the slot have
	// spilled to its disk.
	startTimeout = 30 * time.Second
)

// session is a replication connection before it streams, and what it learned of the server.
type session struct {
	conn    *pgconn.PgConn
	reader  *pacedReader
	version int // major

	confirmed     mvcc.LSN
	senderTimeout time.Duration // wal_sender_timeout, 0: none
	near          mvcc.XID
}

func openSession(ctx context.Context, o Options) (*session, error) {
	config, err := pgurl.Session(o.URL, map[string]string{
		"replication":         "database",
		"client_min_messages": "warning", // see Stream.notice
	})
	if err != nil {
		return nil, err
	}
	s := &session{}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		s.reader = newPacedReader(r)
		return pgproto3.NewFrontend(s.reader, w)
	}
	if s.conn, err = pgconn.ConnectConfig(ctx, &config.Config); err != nil {
		return nil, classify("connect for replication", err)
	}
	if err := s.inspect(ctx, o); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

// inspect asks, in the simple protocol that such a connection is limited to, what a start needs to know. The names
// are quoted here because there are no parameters; a slot's name has no character that could need it.
func (s *session) inspect(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	version := s.conn.ParameterStatus("server_version")
	s.version, _ = strconv.Atoi(version[:len(version)-len(strings.TrimLeft(version, "0123456789"))])
	const ask = `SELECT pg_is_in_recovery(),
       (SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'),
       pg_snapshot_xmax(pg_current_snapshot()),
       s.slot_name IS NOT NULL,
       s.plugin = 'pgoutput' AND s.database = current_database(),
       s.wal_status = 'lost',
       s.confirmed_flush_lsn,
       s.active_pid,
       ` + wal.ServerSQL + `
  FROM (VALUES (1)) one LEFT JOIN pg_replication_slots s ON s.slot_name = `
	results, err := s.conn.Exec(ctx, ask+quoteLiteral(o.Slot)).ReadAll()
	if err != nil {
		return classify("look at the replication slot", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 9 {
		return errors.New("look at the replication slot: unexpected answer")
	}
	text := make([]string, 9)
	for i, field := range results[0].Rows[0] {
		text[i] = string(field)
	}
	const yes = "t"
	switch {
	case text[0] == yes:
		return fmt.Errorf("look at the replication slot: %w", ErrStandby)
	case o.Server != "" && text[8] != o.Server: // before anything that this server has, or lacks, could count as a gap
		return fmt.Errorf("look at the replication slot: %w: %s, and just now %s", ErrOtherServer, text[8], o.Server)
	case text[3] != yes:
		return &GapError{Reason: fmt.Sprintf("replication slot %q does not exist", o.Slot)}
	case text[4] != yes:
		return &GapError{Reason: fmt.Sprintf("replication slot %q belongs to another plugin or database", o.Slot)}
	case text[5] == yes:
		return &GapError{Reason: fmt.Sprintf("replication slot %q is lost: the server removed the log that it needs", o.Slot)}
	case text[7] != "":
		return fmt.Errorf("replication slot %q is read by process %s: %w", o.Slot, text[7], ErrSlotInUse)
	}
	millis, err := strconv.ParseInt(text[1], 10, 64)
	if err != nil {
		return fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	s.senderTimeout = time.Duration(millis) * time.Millisecond
	if s.near, err = mvcc.ParseXID(text[2]); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if s.confirmed, err = mvcc.ParseLSN(text[6]); err != nil {
		return fmt.Errorf("read confirmed position: %w", err)
	}
	return nil
}

// replicate starts the stream and gives the connection away. It closes it when it fails.
func (s *session) replicate(ctx context.Context, o Options, from mvcc.LSN) (*pgconn.HijackedConn, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	fail := func(err error) (*pgconn.HijackedConn, error) {
		s.close(ctx)
		return nil, classify("start replication", err)
	}
	frontend := s.conn.Frontend()
	frontend.SendQuery(&pgproto3.Query{String: startCommand(o.Slot, o.Publication, from, s.version)})
	if err := frontend.Flush(); err != nil {
		return fail(err)
	}
	for {
		received, err := s.conn.ReceiveMessage(ctx)
		if err != nil {
			return fail(err)
		}
		switch m := received.(type) {
		case *pgproto3.CopyBothResponse:
			hijacked, err := s.conn.Hijack()
			if err != nil {
				return fail(err)
			}
			return hijacked, nil
		case *pgproto3.ErrorResponse:
			return fail(pgconn.ErrorResponseToPgError(m))
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fail(fmt.Errorf("unexpected message %T", m))
		}
	}
}

// patience is how long the server may be silent: it answers when it is asked, which it is every second, unless it is
// busy, and then within its own timeout.
func (s *session) patience() time.Duration {
	if s.senderTimeout <= 0 {
		return quietTimeout
	}
	return max(s.senderTimeout, leastPatience)
}

func (s *session) statusInterval(configured time.Duration) time.Duration {
	interval := longestStatus
	if s.senderTimeout > 0 {
		interval = min(interval, s.senderTimeout/3)
	}
	if configured > 0 {
		interval = min(interval, configured)
	}
	return interval
}

// close drops a connection that does not stream yet, also when ctx is why.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = s.conn.Close(ctx) // a connection that is given up
}
