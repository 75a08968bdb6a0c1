package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/freshet/freshet/mvcc"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/redis/rueidis"
)

// runLoop is the least that could be called a follower: it reads each message, finds the new row's first column, and
// unlinks its key, one after the other. It waits for nothing to be visible, keeps no account, and survives nothing.
func runLoop(ctx context.Context, j job) error {
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{mustAddress(j.Redis)}, DisableCache: true, PipelineMultiplex: -1,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	config, err := pgconn.ParseConfig(j.Postgres)
	if err != nil {
		return err
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the process ends
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(
		`START_REPLICATION SLOT %q LOGICAL 0/0 (proto_version '1', publication_names '%s')`, j.Slot, publication)})
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	err = receive(ctx, conn, client, j)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func mustAddress(url string) string {
	option, err := rueidis.ParseURL(url)
	if err != nil {
		return ""
	}
	return option.InitAddress[0]
}

func receive(ctx context.Context, conn *pgconn.PgConn, client rueidis.Client, j job) error {
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyBothResponse:
			say(live)
		case *pgproto3.CopyData:
			switch m.Data[0] {
			case 'k':
				if err := confirm(conn, binary.BigEndian.Uint64(m.Data[1:])); err != nil {
					return err
				}
			case 'w':
				if err := deal(ctx, client, j, m.Data[25:]); err != nil {
					return err
				}
			}
		}
	}
}

// deal deletes the key of a changed row, and says where a transaction ends if anybody wants to know.
func deal(ctx context.Context, client rueidis.Client, j job, data []byte) error {
	if id := updated(data); id != nil {
		return client.Do(ctx, client.B().Unlink().Key(j.Prefix+string(id)).Build()).Error()
	}
	if end := commitEnd(data); end != 0 && j.Position != "" {
		return client.Do(ctx, client.B().Set().Key(j.Position).Value(end.String()).Build()).Error()
	}
	return nil
}

// commitEnd is the position behind a COMMIT, 0 for any other message.
func commitEnd(data []byte) mvcc.LSN {
	const end = 1 + 1 + 8 // 'C', flags, the commit's position
	if len(data) < end+8 || data[0] != 'C' {
		return 0
	}
	return mvcc.LSN(binary.BigEndian.Uint64(data[end:]))
}

// updated is the first column of an UPDATE's new row, nil for any other message.
func updated(data []byte) []byte {
	const header = 1 + 4 + 1 + 2 + 1 // 'U', table, 'N', columns, 't'
	if len(data) < header+4 || data[0] != 'U' || data[5] != 'N' || data[8] != 't' {
		return nil
	}
	n := binary.BigEndian.Uint32(data[header:])
	return data[header+4:][:n]
}

// confirm answers a keepalive.
func confirm(conn *pgconn.PgConn, position uint64) error {
	data := make([]byte, 1+4*8+1)
	data[0] = 'r'
	for i := range 3 {
		binary.BigEndian.PutUint64(data[1+8*i:], position)
	}
	const microsTo2000 = 946_684_800_000_000
	binary.BigEndian.PutUint64(data[25:], uint64(time.Now().UnixMicro()-microsTo2000)) //nolint:gosec // the wire's signed field
	conn.Frontend().Send(&pgproto3.CopyData{Data: data})
	if err := conn.Frontend().Flush(); err != nil {
		return errors.Join(errors.New("confirm"), err)
	}
	return nil
}
