package pgload

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// Load runs an entry's query and returns its result as JSON built by PostgreSQL: an object, or an array.
func (l *Loader) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (Loaded, error) {
	conn, server, err := l.acquire(ctx)
	if err != nil {
		return Loaded{}, err
	}
	defer conn.Release()
	values := make([]any, 0, len(l.mode)+len(args))
	values = append(values, l.mode...)
	for _, a := range args {
		if a.Null {
			values = append(values, nil)
		} else {
			values = append(values, a.Text) // pgx sends a string as the text of whatever type the parameter has
		}
	}
	text := wrap(sql, result)
	data := conn.Conn().PgConn().CustomData()
	if data[adaptKey] == nil {
		rows, err := conn.Query(ctx, text, values...)
		if err != nil {
			return Loaded{}, classify(ctx, "load", err)
		}
		loaded, s, err := collect(ctx, rows)
		if err != nil {
			return Loaded{}, err
		}
		if usual(s.settings) || l.owned || len(l.mode) > 0 {
			loaded.Server = server
			s.judge(&loaded)
			return loaded, nil
		}
		data[adaptKey] = true
	}
	loaded, s, err := adapted(ctx, conn, text, values)
	if err != nil {
		return Loaded{}, err
	}
	loaded.Server = server
	s.judge(&loaded)
	return loaded, nil
}

// adaptKey is where a connection of an application's pool remembers that its settings are not the usual ones.
const adaptKey = "freshet.adapt"

// adapted runs a load under the usual settings in a session that has others: in a transaction of its own, sent in one
// go, which leaves the session as it was.
func adapted(ctx context.Context, conn *pgxpool.Conn, text string, values []any) (loaded Loaded, s state, err error) {
	defer func() {
		if err != nil && conn.Conn().PgConn().TxStatus() != 'I' && !conn.Conn().IsClosed() {
			_, _ = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") // or else the pool closes the connection
		}
	}()
	batch := &pgx.Batch{}
	batch.Queue("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY")
	batch.Queue(localSettings)
	batch.Queue(text, values...)
	batch.Queue("COMMIT")
	results := conn.SendBatch(ctx, batch)
	defer func() {
		if closing := results.Close(); err == nil && closing != nil {
			err = classify(ctx, "load", closing)
		}
	}()
	for range 2 {
		if _, err := results.Exec(); err != nil {
			return Loaded{}, state{}, classify(ctx, "load", err)
		}
	}
	rows, err := results.Query()
	if err != nil {
		return Loaded{}, state{}, classify(ctx, "load", err)
	}
	return collect(ctx, rows)
}

// collect reads the one row of a wrapped query.
func collect(ctx context.Context, rows pgx.Rows) (loaded Loaded, s state, err error) {
	defer rows.Close()
	count := 0
	for rows.Next() {
		count++
		if count > 1 {
			return Loaded{}, state{}, ErrManyRows
		}
		if err := rows.Scan(append([]any{&loaded.Payload}, s.targets()...)...); err != nil {
			return Loaded{}, state{}, classify(ctx, "load", err)
		}
	}
	if err := rows.Err(); err != nil {
		return Loaded{}, state{}, classify(ctx, "load", err)
	}
	if count == 0 {
		return Loaded{}, state{}, errors.New("load: the statement returned nothing")
	}
	loaded.Found = loaded.Payload != nil
	return loaded, s, nil
}

// wrap makes one statement of the query and stateColumns, which always has a row, also where the query has none. A
// line break ends a comment that the query may end with.
func wrap(sql string, result rule.Result) string {
	sql = strings.TrimRight(sql, "; \t\r\n")
	if result == rule.Many {
		return "SELECT coalesce('[' || pg_catalog.string_agg(pg_catalog.row_to_json(freshet_q)::text, ',') || ']', '[]'), " +
			stateColumns + " FROM (" + sql + "\n) freshet_q"
	}
	// Two rows are enough to know that there are too many.
	return "SELECT freshet_r.j, " + stateColumns + " FROM (SELECT 1) freshet_o LEFT JOIN LATERAL (" +
		"SELECT pg_catalog.row_to_json(freshet_q)::text AS j FROM (" + sql + "\n) freshet_q LIMIT 2) freshet_r ON true"
}

// LoadFunc runs code that loads with any number of statements, in a read-only transaction in which all of them see one
// snapshot, the one of the first statement. The code returns JSON, and whether there is such a thing.
func (l *Loader) LoadFunc(ctx context.Context, load func(context.Context, pgx.Tx) ([]byte, bool, error)) (Loaded, error) {
	conn, server, err := l.acquire(ctx)
	if err != nil {
		return Loaded{}, err
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return Loaded{}, classify(ctx, "begin load", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var s state
	if err := tx.QueryRow(ctx, "SELECT "+stateColumns, l.mode...).Scan(s.targets()...); err != nil {
		return Loaded{}, classify(ctx, "begin load", err)
	}
	if !usual(s.settings) && !l.owned {
		if _, err := tx.Exec(ctx, localSettings); err != nil {
			return Loaded{}, classify(ctx, "begin load", err)
		}
		if err := tx.QueryRow(ctx, "SELECT "+stateColumns, l.mode...).Scan(s.targets()...); err != nil {
			return Loaded{}, classify(ctx, "begin load", err)
		}
	}
	loaded := Loaded{Server: server}
	if loaded.Payload, loaded.Found, err = load(ctx, tx); err != nil {
		return Loaded{}, classify(ctx, "load", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return Loaded{}, classify(ctx, "end load", err)
	}
	s.judge(&loaded)
	return loaded, nil
}

// Describe asks the server for the types of a query's parameters, by preparing it.
func (l *Loader) Describe(ctx context.Context, sql string) ([]uint32, error) {
	conn, _, err := l.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	return describe(ctx, conn.Conn(), sql)
}

func describe(ctx context.Context, conn *pgx.Conn, sql string) ([]uint32, error) {
	description, err := conn.PgConn().Prepare(ctx, "", sql, nil)
	if err != nil {
		return nil, classify(ctx, "describe query", err)
	}
	return description.ParamOIDs, nil
}

// Types is Describe in terms of keys: a type is empty when its values have no canonical text.
func (l *Loader) Types(ctx context.Context, sql string) ([]keytext.Type, error) {
	conn, _, err := l.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	oids, err := describe(ctx, conn.Conn(), sql)
	if err != nil {
		return nil, err
	}
	types := make([]keytext.Type, 0, len(oids))
	for _, oid := range oids {
		var name string
		err := conn.QueryRow(ctx, `SELECT CASE WHEN t.typtype = 'e' THEN 'enum' ELSE coalesce(b.typname, t.typname) END
			FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype WHERE t.oid = $1`, oid).Scan(&name)
		if err != nil {
			return nil, classify(ctx, "describe query", err)
		}
		types = append(types, keyType(name))
	}
	return types, nil
}

func keyType(name string) keytext.Type {
	switch t := keytext.Type(name); t {
	case keytext.Int2, keytext.Int4, keytext.Int8, keytext.OID, keytext.Bool, keytext.UUID, keytext.String, keytext.Date,
		keytext.Timestamp, keytext.Timestamptz, keytext.Numeric, keytext.Bytea, keytext.Enum:
		return t
	default:
		if name == "varchar" {
			return keytext.String
		}
		return ""
	}
}
