package pgload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// One is what became of one key of several.
type One struct {
	Loaded Loaded
	Err    error
}

// Many is what became of several keys.
type Many struct {
	Ones       []One // in the order of the keys
	Statements int   // that were sent for them
	// Refused is the error with which the database refused the statement for many keys as such: it is not worth trying again.
	Refused error
}

// LoadMany loads several keys: by one statement, where the query has that form, and so under one snapshot; or else by
// statements of their own that are sent together. An error of one key is not that of others: a statement that fails is sent
// again for each half of its keys, down to the one that it fails for.
func (l *Loader) LoadMany(ctx context.Context, q Query, keys [][]keytext.Arg) Many {
	m := Many{Ones: make([]One, len(keys))}
	conn, link, err := l.acquire(ctx)
	if err != nil {
		m.fail(err)
		return m
	}
	defer conn.Release()
	b := &manyLoad{Loader: l, conn: conn, link: link, query: &q, keys: keys, many: &m}
	b.load(ctx, 0, len(keys))
	return m
}

func (m *Many) fail(err error) {
	for i := range m.Ones {
		m.Ones[i].Err = err
	}
}

// manyLoad is one run of LoadMany.
type manyLoad struct {
	*Loader
	conn  *pgxpool.Conn
	link  *link
	query *Query
	keys  [][]keytext.Arg
	many  *Many
}

// load loads the keys from one number to before another.
func (b *manyLoad) load(ctx context.Context, from, to int) {
	if to-from == 1 || b.query.Batch == nil {
		b.apart(ctx, from, to)
		return
	}
	err := b.together(ctx, from, to)
	var refused *QueryError
	switch {
	case err == nil:
	case errors.As(err, &refused) && strings.HasPrefix(refused.Code, "42"): // a name that is not there, a privilege that is missing
		b.query.Batch, b.many.Refused = nil, err
		b.apart(ctx, from, to)
	case errors.As(err, &refused) && refused.Code != Cancelled:
		middle := from + (to-from)/2
		b.load(ctx, from, middle)
		b.load(ctx, middle, to)
	default:
		b.fail(from, to, err)
	}
}

// Cancelled is the SQLSTATE of a statement that took longer than the server allows.
const Cancelled = "57014"

func (b *manyLoad) fail(from, to int, err error) {
	for i := from; i < to; i++ {
		b.many.Ones[i] = One{Err: err}
	}
}

// together loads keys by one statement.
func (b *manyLoad) together(ctx context.Context, from, to int) error {
	args := arrays(b.keys[from:to])
	var (
		rows [][][]byte
		said []*string
		err  error
	)
	for {
		sql := manySQL(b.query, b.link.pooled)
		b.many.Statements++
		if rows, err = b.rows(ctx, sql, args); err != nil {
			return err
		}
		if said, err = description(rows); err != nil {
			return err
		}
		if b.link.adapt || !b.adapts(text(newState(said).settings)) {
			break
		}
		b.link.adapt = true
	}
	s := newState(said)
	ones := b.many.Ones[from:to]
	if err := distribute(ones, b.query, rows); err != nil {
		return err
	}
	sent := *b.link
	for i := range ones {
		if one := &ones[i]; one.Err == nil {
			one.Loaded, one.Err = b.finish(one.Loaded, s, sent)
		}
	}
	return nil
}

// finish is that of a state, of a statement that was made for the link as it was when it was sent: what one key's answer shows of
// the connection is not to be looked for in the next one's.
func (b *manyLoad) finish(loaded Loaded, s *state, sent link) (Loaded, error) {
	loaded, err := s.finish(loaded, &sent)
	b.link.pooled = b.link.pooled || sent.pooled
	return loaded, err
}

// adapts reports whether a session's settings have to be made the usual ones, and may be.
func (b *manyLoad) adapts(settings string) bool {
	return !usual(settings) && (!b.owned || b.link.pooled) && b.conn.Conn().PgConn().TxStatus() == 'I'
}

// rows are the answer to a statement, as text.
func (b *manyLoad) rows(ctx context.Context, sql string, args []keytext.Arg) ([][][]byte, error) {
	conn := b.conn.Conn()
	if b.link.adapt {
		rows, err := exchange(ctx, conn.PgConn(), statement{sql: beginReading}, statement{sql: localSettings}, statement{sql, arguments(args)},
			statement{sql: "COMMIT"})
		if err != nil {
			return nil, classify(ctx, "load", err)
		}
		const load = 2
		return rows[load], nil
	}
	if b.link.pooled || b.unnamed {
		rows, err := exchange(ctx, conn.PgConn(), statement{sql, arguments(args)})
		if err != nil {
			return nil, classify(ctx, "load", err)
		}
		return rows[0], nil
	}
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a.Text
	}
	answer, err := conn.Query(ctx, sql, values...)
	if err != nil {
		return nil, classify(ctx, "load", err)
	}
	defer answer.Close()
	var rows [][][]byte
	for answer.Next() {
		row := make([][]byte, len(answer.RawValues()))
		for i, v := range answer.RawValues() {
			if v != nil {
				row[i] = append([]byte{}, v...)
			}
		}
		rows = append(rows, row)
	}
	if err := answer.Err(); err != nil {
		return nil, classify(ctx, "load", err)
	}
	return rows, nil
}

// manySQL loads keys: for each, its number, its value, its tags, and with the last of them what the statement says about
// itself. A load of one key says that in its row; for many it would be said many times, and lists of transactions are long.
func manySQL(q *Query, withServer bool) string {
	said := stateColumns
	if withServer {
		said += ", " + serverColumns
	}
	tags := "NULL::text"
	if len(q.Tags) > 0 {
		tags = tagColumn(q.batchTags())
	}
	return fmt.Sprintf(`SELECT %[1]s.ord::text, freshet_r.j, %[2]s,
		CASE WHEN %[1]s.ord = pg_catalog.cardinality($1::%[3]s[]) THEN pg_catalog.json_build_array(%[4]s)::text END FROM %[5]s`,
		rule.BatchName, tags, q.Batch.Types[0], said, q.Batch.From(q.Result))
}

// batchTags are the tag queries in the form for many keys.
func (q *Query) batchTags() []*rule.TagQuery {
	queries := make([]*rule.TagQuery, len(q.Tags))
	for i, t := range q.Tags {
		form := *t
		form.SQL = q.Batch.Tags[i]
		queries[i] = &form
	}
	return queries
}

// The columns of manySQL.
const (
	manyNumber = iota
	manyValue
	manyTags
	manySaid
	manyColumns
)

// description is what a statement for many keys says about itself.
func description(rows [][][]byte) (said []*string, err error) {
	for _, row := range rows {
		if len(row) != manyColumns {
			return nil, fmt.Errorf("load: a row of %d columns: %w", len(row), errNothing)
		}
		if row[manySaid] == nil {
			continue
		}
		if err := json.Unmarshal(row[manySaid], &said); err != nil {
			return nil, fmt.Errorf("load: what the statement says about itself cannot be read: %w", err)
		}
		return said, nil
	}
	return nil, errNothing
}

// newState is a state of which the first columns are known.
func newState(said []*string) *state {
	s := &state{}
	for i, to := range s.columns()[:min(len(said), len(s.columns()))] {
		*to = said[i]
	}
	return s
}

// distribute puts the rows to their keys.
func distribute(ones []One, q *Query, rows [][][]byte) error {
	seen := make([]bool, len(ones))
	for _, row := range rows {
		n, err := strconv.Atoi(string(row[manyNumber]))
		if err != nil || n < 1 || n > len(ones) {
			return fmt.Errorf("load: a row of key %q of %d: %w", row[manyNumber], len(ones), errNothing)
		}
		one := &ones[n-1]
		if seen[n-1] {
			*one = One{Err: ErrManyRows}
			continue
		}
		seen[n-1] = true
		found := string(row[manyTags])
		s := state{found: &found}
		*one = One{Loaded: Loaded{Payload: row[manyValue], Found: row[manyValue] != nil}}
		one.Loaded.Tags, one.Err = s.tags(q)
	}
	for i := range seen {
		if !seen[i] {
			return fmt.Errorf("load: no row of key %d: %w", i+1, errNothing)
		}
	}
	return nil
}

// arrays are the arguments of many keys, parameter by parameter, as texts of arrays.
func arrays(keys [][]keytext.Arg) []keytext.Arg {
	args := make([]keytext.Arg, len(keys[0]))
	for n := range args {
		var b strings.Builder
		b.WriteByte('{')
		for i, key := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			if key[n].Null {
				b.WriteString("NULL")
				continue
			}
			b.WriteByte('"')
			_, _ = quoteElement.WriteString(&b, key[n].Text) // a Builder takes everything
			b.WriteByte('"')
		}
		b.WriteByte('}')
		args[n].Text = b.String()
	}
	return args
}

var quoteElement = strings.NewReplacer(`\`, `\\`, `"`, `\"`) //nolint:gochecknoglobals // never changed, and safe for all

// apart loads keys by statements of their own, sent together: each is a transaction of its own, so that one that fails is no
// other's failure.
func (b *manyLoad) apart(ctx context.Context, from, to int) {
	if to-from > 1 && !b.link.adapt {
		b.pipelined(ctx, from, to)
		if !b.link.adapt {
			return
		}
	}
	for i := from; i < to; i++ {
		b.many.Ones[i] = b.one(ctx, i)
	}
}

// one loads a key by itself.
func (b *manyLoad) one(ctx context.Context, i int) (one One) {
	b.many.Statements++
	var s state
	sql := func(withServer bool) string { return wrap(b.query, withServer) }
	if one.Loaded, s, one.Err = b.runOn(ctx, b.conn, b.link, sql, b.keys[i]); one.Err == nil {
		one.Loaded.Tags, one.Err = s.tags(b.query)
	}
	return one
}

// pipelined sends a statement for each key before it reads the first answer. Where the session's settings turn out to have to be
// adapted, nothing of it counts.
func (b *manyLoad) pipelined(ctx context.Context, from, to int) {
	conn, sql, name := b.conn.Conn(), wrap(b.query, b.link.pooled), ""
	if !b.link.pooled && !b.unnamed {
		sum := sha256.Sum256([]byte(sql))
		name = "freshet_" + hex.EncodeToString(sum[:8])
		if _, err := conn.Prepare(ctx, name, sql); err != nil { // once for each connection
			b.fail(from, to, classify(ctx, "load", err))
			return
		}
	}
	sent := *b.link
	p := conn.PgConn().StartPipeline(ctx)
	for _, key := range b.keys[from:to] {
		if name == "" {
			p.SendQueryParams(sql, arguments(key), nil, nil, nil)
		} else {
			p.SendQueryPrepared(name, arguments(key), nil, nil)
		}
		p.SendPipelineSync()
	}
	b.many.Statements += to - from
	err := p.Flush()
	at := from
	for ; err == nil && at < to; at++ {
		rows, refused, broken := answer(p)
		if err = broken; err != nil {
			break
		}
		b.many.Ones[at] = b.judge(ctx, rows, refused, sent)
	}
	if closing := p.Close(); err == nil {
		err = closing
	}
	if err != nil {
		b.fail(at, to, classify(ctx, "load", err))
		return
	}
	for i := from; i < to; i++ {
		// Somebody who shares the pool has the connection forget its statements.
		if refused, ok := errors.AsType[*QueryError](b.many.Ones[i].Err); ok && refused.Code == unknownStatement {
			_ = conn.Deallocate(ctx, name)
			b.many.Ones[i] = b.one(ctx, i)
		}
	}
}

// unknownStatement is the SQLSTATE of a prepared statement that is not there.
const unknownStatement = "26000"

// judge is what an answer to a statement for one key comes to.
func (b *manyLoad) judge(ctx context.Context, rows [][][]byte, refused error, sent link) (one One) {
	if refused != nil {
		return One{Err: classify(ctx, "load", refused)}
	}
	var s state
	if one.Loaded, s, one.Err = single(rows); one.Err != nil {
		return one
	}
	b.link.adapt = b.link.adapt || b.adapts(text(s.settings))
	if one.Loaded, one.Err = b.finish(one.Loaded, &s, sent); one.Err == nil {
		one.Loaded.Tags, one.Err = s.tags(b.query)
	}
	return one
}

// answer reads the rows of one statement of a pipeline, or the error with which the server refused it, up to its end.
func answer(p *pgconn.Pipeline) (rows [][][]byte, refused, err error) {
	for {
		results, err := p.GetResults()
		var said *pgconn.PgError
		switch r := results.(type) {
		case *pgconn.ResultReader:
			got := r.Read()
			if rows = got.Rows; errors.As(got.Err, &said) {
				refused = got.Err
			} else if got.Err != nil {
				return nil, nil, got.Err
			}
		case *pgconn.PipelineSync:
			return rows, refused, nil
		default:
			switch {
			case errors.As(err, &said):
				refused = err
			case err != nil:
				return nil, nil, err
			default:
				return nil, nil, errors.New("the server answers out of turn")
			}
		}
	}
}

// LoadMany is Loader.LoadMany on the standby: every key is covered by the position up to which it had replayed before the
// first statement. An error is that of all keys: on the primary they are told apart.
func (r *Replica) LoadMany(ctx context.Context, q Query, keys [][]keytext.Arg) ([]Loaded, error) {
	conn, err := r.loader.connection(ctx)
	if err != nil {
		return nil, r.loader.unconnected(ctx, err)
	}
	defer conn.Release()
	statements := []statement{{sql: beginReading}, {sql: positionStatement}}
	if !r.loader.owned || r.loader.behind.Load() {
		statements = append(statements, statement{sql: localSettings})
	}
	first := len(statements)
	if q.Batch != nil {
		statements = append(statements, statement{manySQL(&q, false), arguments(arrays(keys))})
	} else {
		for _, key := range keys {
			statements = append(statements, statement{wrap(&q, false), arguments(key)})
		}
	}
	rows, err := exchange(ctx, conn.Conn().PgConn(), append(statements, statement{sql: "COMMIT"})...)
	if err != nil {
		return nil, classify(ctx, "load", err)
	}
	ones, states, err := q.read(rows[first:len(rows)-1], len(keys))
	if err != nil {
		return nil, err
	}
	const position = 1
	if len(rows[position]) != 1 {
		return nil, errNothing
	}
	row := rows[position][0]
	server, err := newServer(string(row[2]), string(row[3]))
	if err != nil {
		return nil, err
	}
	all := make([]Loaded, len(keys))
	for i := range ones {
		if ones[i].Err != nil {
			return nil, ones[i].Err
		}
		all[i] = ones[i].Loaded
		all[i].Server, all[i].Database = server, newDatabase(string(row[4]))
		states[i].judgeReplica(&all[i], string(row[0]) == "true", string(row[1]))
	}
	return all, nil
}

// read reads the answers to a statement for all keys, or to one for each.
func (q *Query) read(answers [][][][]byte, keys int) (ones []One, states []*state, err error) {
	ones, states = make([]One, keys), make([]*state, keys)
	if q.Batch != nil {
		said, err := description(answers[0])
		if err != nil {
			return nil, nil, err
		}
		s := newState(said)
		for i := range states {
			states[i] = s
		}
		return ones, states, distribute(ones, q, answers[0])
	}
	for i := range ones {
		s := &state{}
		if ones[i].Loaded, *s, ones[i].Err = single(answers[i]); ones[i].Err == nil {
			ones[i].Loaded.Tags, ones[i].Err = s.tags(q)
		}
		states[i] = s
	}
	return ones, states, nil
}
