package pgload

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// Load runs an entry's query and returns its result as JSON built by PostgreSQL: an object, or an array.
func (l *Loader) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (Loaded, error) {
	return l.LoadTagged(ctx, Query{SQL: sql, Result: result}, args)
}

// LoadTagged is Load of a value together with its tags, by one statement.
func (l *Loader) LoadTagged(ctx context.Context, q Query, args []keytext.Arg) (Loaded, error) {
	loaded, s, err := l.run(ctx, func(withServer bool) string { return wrap(&q, withServer) }, args)
	if err == nil {
		loaded.Tags, err = s.tags(&q)
	}
	return loaded, err
}

// run asks for a value by a statement that says about itself what stateColumns do, and, if asked to, serverColumns.
func (l *Loader) run(ctx context.Context, sql func(withServer bool) string, args []keytext.Arg) (Loaded, state, error) {
	conn, link, err := l.acquire(ctx)
	if err != nil {
		return Loaded{}, state{}, err
	}
	defer conn.Release()
	return l.runOn(ctx, conn, link, sql, args)
}

func (l *Loader) runOn(
	ctx context.Context, conn *pgxpool.Conn, link *link, sql func(withServer bool) string, args []keytext.Arg,
) (loaded Loaded, s state, err error) {
	if !link.adapt {
		if loaded, s, err = l.plain(ctx, conn, link, sql(link.pooled), args); err != nil {
			return Loaded{}, state{}, err
		}
		link.adapt = !usual(text(s.settings)) && (!l.owned || link.pooled) && conn.Conn().PgConn().TxStatus() == 'I'
	}
	if link.adapt {
		if loaded, s, err = adapted(ctx, conn.Conn().PgConn(), sql(link.pooled), args); err != nil {
			return Loaded{}, state{}, err
		}
	}
	loaded, err = s.finish(loaded, link)
	return loaded, s, err
}

// finish says which server a value is from, and whether it may be cached.
func (s *state) finish(loaded Loaded, l *link) (Loaded, error) {
	loaded.Server, loaded.Database = l.server, l.database
	if l.pooled {
		var err error
		if loaded.Server, err = s.server(); err != nil {
			return Loaded{}, err
		}
		loaded.Database = newDatabase(text(s.database))
	}
	s.judge(&loaded)
	if !l.pooled && text(s.pid) != l.pid {
		loaded.Refuse, loaded.Coverage = "the connection was given another server", fence.Coverage{}
		l.pooled = true // from now on, it is asked with each statement
	}
	return loaded, nil
}

// plain runs a load in the session as it is.
func (l *Loader) plain(ctx context.Context, conn *pgxpool.Conn, link *link, sql string, args []keytext.Arg) (Loaded, state, error) {
	if link.pooled || l.unnamed {
		rows, err := exchange(ctx, conn.Conn().PgConn(), statement{sql, arguments(args)})
		if err != nil {
			return Loaded{}, state{}, classify(ctx, "load", err)
		}
		return single(rows[0])
	}
	values := make([]any, len(args))
	for i, a := range args {
		if !a.Null {
			values[i] = a.Text // pgx sends a string as the text of whatever type the parameter has
		}
	}
	rows, err := conn.Query(ctx, sql, values...)
	if err != nil {
		return Loaded{}, state{}, classify(ctx, "load", err)
	}
	return collect(ctx, rows)
}

// adapted runs a load under the usual settings in a session that has others: in a transaction of its own, sent in one
// go, which leaves the session as it was.
func adapted(ctx context.Context, conn *pgconn.PgConn, sql string, args []keytext.Arg) (Loaded, state, error) {
	rows, err := exchange(ctx, conn, statement{sql: beginReading}, statement{sql: localSettings}, statement{sql, arguments(args)},
		statement{sql: "COMMIT"})
	if err != nil {
		return Loaded{}, state{}, classify(ctx, "load", err)
	}
	const load = 2
	return single(rows[load])
}

// errNothing is the error of a wrapped query that had no row, which cannot be.
var errNothing = errors.New("load: the statement returned nothing")

// single reads the one row of a wrapped query out of an exchange.
func single(rows [][][]byte) (loaded Loaded, s state, err error) {
	switch len(rows) {
	case 0:
		return Loaded{}, state{}, errNothing
	case 1:
		loaded.Payload, loaded.Found = rows[0][0], rows[0][0] != nil
		s.read(rows[0])
		return loaded, s, nil
	}
	return Loaded{}, state{}, ErrManyRows
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
		if err := rows.Scan(append([]any{&loaded.Payload}, s.targets(len(rows.FieldDescriptions())-1)...)...); err != nil {
			return Loaded{}, state{}, classify(ctx, "load", err)
		}
	}
	if err := rows.Err(); err != nil {
		return Loaded{}, state{}, classify(ctx, "load", err)
	}
	if count == 0 {
		return Loaded{}, state{}, errNothing
	}
	loaded.Found = loaded.Payload != nil
	return loaded, s, nil
}

// wrap makes one statement of the query and stateColumns, serverColumns if asked to, and the tags if there are any, which always has a row, also
// where the query has none. A line break ends a comment that the query may end with.
func wrap(q *Query, withServer bool) string {
	sql := strings.TrimRight(q.SQL, "; \t\r\n")
	columns := stateColumns
	switch {
	case len(q.Tags) > 0:
		columns = selfDescription(withServer) + ", " + noComparison + ", " + tagColumn(q.Tags)
	case withServer:
		columns += ", " + serverColumns
	}
	if q.Result == rule.Many {
		return "SELECT " + rule.List("pg_catalog.row_to_json(freshet_q)") + ", " + columns + " FROM (" + sql + "\n) freshet_q"
	}
	// Two rows are enough to know that there are too many.
	return "SELECT freshet_r.j, " + columns + " FROM (SELECT 1) freshet_o LEFT JOIN LATERAL (" +
		"SELECT pg_catalog.row_to_json(freshet_q)::text AS j FROM (" + sql + "\n) freshet_q LIMIT 2) freshet_r ON true"
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
		rows, err := exchange(ctx, conn.Conn().PgConn(), statement{
			`SELECT CASE WHEN t.typtype = 'e' THEN 'enum' ELSE coalesce(b.typname, t.typname) END
			FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype WHERE t.oid = $1`,
			[][]byte{strconv.AppendUint(nil, uint64(oid), 10)},
		})
		if err != nil {
			return nil, classify(ctx, "describe query", err)
		}
		if len(rows[0]) != 1 {
			return nil, fmt.Errorf("describe query: type %d is not in the catalog", oid)
		}
		types = append(types, keyType(string(rows[0][0][0])))
	}
	return types, nil
}

func keyType(name string) keytext.Type {
	if element, ok := strings.CutPrefix(name, "_"); ok {
		if t := keyType(element); t != "" && t != keytext.Enum {
			return keytext.Array(t)
		}
		return ""
	}
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
