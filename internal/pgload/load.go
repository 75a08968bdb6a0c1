package pgload

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

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
	rows, err := conn.Query(ctx, wrap(sql, result), values...)
	if err != nil {
		return Loaded{}, classify(ctx, "load", err)
	}
	defer rows.Close()
	var (
		s      state
		loaded = Loaded{Server: server}
		count  int
	)
	for rows.Next() {
		count++
		if count > 1 {
			return Loaded{}, ErrManyRows
		}
		if err := rows.Scan(append([]any{&loaded.Payload}, s.targets()...)...); err != nil {
			return Loaded{}, classify(ctx, "load", err)
		}
	}
	if err := rows.Err(); err != nil {
		return Loaded{}, classify(ctx, "load", err)
	}
	if count == 0 {
		return Loaded{}, errors.New("load: the statement returned nothing")
	}
	loaded.Found = loaded.Payload != nil
	s.judge(&loaded)
	return loaded, nil
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
