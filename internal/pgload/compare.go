package pgload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// Known is a value that the database's is compared with.
type Known struct {
	Digest  Digest
	Version string // its row version, as a load returned it; empty: it has none
	// Horizon is for physical versions: below it, every transaction is over and cannot be lost, and the value contains it.
	// What a row version says of others proves nothing. Zero: of none.
	Horizon mvcc.XID
}

// Digest stands for a value's bytes.
type Digest [sha256.Size]byte

// DigestOf is the digest of a value.
func DigestOf(payload []byte) Digest { return sha256.Sum256(payload) }

// Sameness says how a value was found to be the known one.
type Sameness uint8

// What a comparison found.
const (
	Different   Sameness = iota // it is another one, or there is none; or nothing was compared
	SameDigest                  // the same bytes
	SameVersion                 // the same row version, and nothing but that was looked at
)

// Query is what a load needs to know of an entry.
type Query struct {
	SQL     string
	Result  rule.Result
	Version *rule.RowVersion // nil: values are compared by their digests alone
	Tags    []*rule.TagQuery // what is asked for besides
	Batch   *rule.Batch      // nil: one statement loads one key
}

// LoadChanged is Load of a value that somebody may have already: it is returned only if it is another one than known.
// Otherwise Same says so, and Payload is empty. All that is said is of one statement, whose snapshot is the coverage of the
// known value as well then.
//
// The digest is of the bytes that Load would return, computed by the server. It costs the server what making them costs;
// row versions are compared before anything is made. Where they differ the digest decides: rows may be written, and
// vacuumed, without a change.
func (l *Loader) LoadChanged(ctx context.Context, q Query, args []keytext.Arg, known Known) (Loaded, error) {
	n := len(args) + 1
	args = append(slices.Clip(args), keytext.Arg{Text: `\x` + hex.EncodeToString(known.Digest[:])})
	ask := digestSQL
	if q.Version != nil {
		ask = versionSQL
		args = append(args, keytext.Arg{Text: known.Version, Null: known.Version == ""})
		if q.Version.Physical() {
			args = append(args, keytext.Arg{Text: strconv.FormatUint(uint64(known.Horizon), 10)})
		}
	}
	loaded, s, err := l.run(ctx, func(withServer bool) string { return ask(&q, n, withServer) }, args)
	if err != nil {
		return Loaded{}, err
	}
	if text(s.rows) == manyRows {
		return Loaded{}, ErrManyRows
	}
	switch text(s.same) {
	case bySameDigest:
		loaded.Same, loaded.Found = SameDigest, true
	case bySameVersion:
		loaded.Same, loaded.Found = SameVersion, true
	}
	loaded.Version = text(s.version)
	loaded.Tags, err = s.tags(&q)
	return loaded, err
}

// noComparison stands for a comparison's columns where something comes after them, noVersion for the last two of them.
const (
	noComparison = "NULL::text, " + noVersion
	noVersion    = "NULL::text, NULL::text"
)

// What a comparison's columns say.
const (
	bySameDigest  = "digest"
	bySameVersion = "version"
	manyRows      = "many"
)

// selfDescription is what a comparison's statement says about itself before it says what it found.
func selfDescription(withServer bool) string {
	if withServer {
		return stateColumns + ", " + serverColumns
	}
	return stateColumns + ", " + noServerColumns
}

// digestOf is the digest of a value, of the bytes that this client is sent.
func digestOf(value string) string {
	return "pg_catalog.sha256(pg_catalog.convert_to(" + value + ", pg_catalog.pg_client_encoding()))"
}

// digestSQL is wrap with a comparison by digest; parameter n is the known one. OFFSET 0, as well as the LIMIT and the
// aggregate, keeps PostgreSQL from making the value once for each time that it is named.
func digestSQL(q *Query, n int, withServer bool) string {
	sql := strings.TrimRight(q.SQL, "; \t\r\n")
	from := "(SELECT 1) freshet_o LEFT JOIN LATERAL (SELECT pg_catalog.row_to_json(freshet_q)::text AS j FROM (" + sql +
		"\n) freshet_q LIMIT 2) freshet_r ON true"
	if q.Result == rule.Many {
		from = "(SELECT " + rule.List("pg_catalog.row_to_json(freshet_q)") + " AS j FROM (" + sql + "\n) freshet_q) freshet_r"
	}
	tags := ""
	if len(q.Tags) > 0 {
		tags = ", " + noVersion + ", " + tagColumn(q.Tags)
	}
	return fmt.Sprintf(`SELECT CASE WHEN freshet_s.same THEN NULL ELSE freshet_r.j END, %s, CASE WHEN freshet_s.same THEN '%s' END%s
		FROM %s CROSS JOIN LATERAL (SELECT %s = $%d::bytea AS same OFFSET 0) freshet_s`,
		selfDescription(withServer), bySameDigest, tags, from, digestOf("freshet_r.j"), n)
}

// versionSQL is wrap with a comparison by row version, and then by digest. Parameter n is the known digest, n + 1 the known
// version, n + 2 the horizon. The rows are read once, and what is large in them stays where it is until the
// value is made, which is when the versions differ.
func versionSQL(q *Query, n int, withServer bool) string {
	v := q.Version
	own := make([]string, len(v.Columns))
	for i, name := range v.Columns {
		own[i] = "freshet_q." + pgx.Identifier{name}.Sanitize()
	}
	row := "pg_catalog.row_to_json((SELECT freshet_c FROM (SELECT " + strings.Join(own, ", ") + ") freshet_c))"
	rows, value, version := strings.TrimRight(v.SQL, "; \t\r\n")+"\n", rule.List(row), "pg_catalog.string_agg(pg_catalog.to_json(freshet_version)::text, ',')"
	if q.Result != rule.Many {
		rows = "SELECT * FROM (" + rows + ") freshet_i LIMIT 2"
		value, version = "pg_catalog.max("+row+"::text)", "pg_catalog.max(freshet_version)"
	}
	proved := "true"
	if v.Physical() {
		files := make([]string, len(v.Tables))
		for i, table := range v.Tables {
			files[i] = "pg_catalog.pg_relation_filenode(" + regclass(table) + ")"
		}
		version = "pg_catalog.concat_ws(':', " + strings.Join(files, ", ") + ", " + version + ")"
		proved = physical(v, n+2)
	}
	tags := ""
	if len(q.Tags) > 0 {
		tags = ", " + tagColumn(q.Tags)
	}
	return fmt.Sprintf(`WITH freshet_q AS MATERIALIZED (%s),
		freshet_v AS MATERIALIZED (SELECT pg_catalog.count(*) AS rows,
			CASE WHEN pg_catalog.count(*) = pg_catalog.count(freshet_version) THEN %s END AS version FROM freshet_q),
		freshet_r AS MATERIALIZED (SELECT %s AS j FROM freshet_q)
		SELECT CASE WHEN freshet_s.same IS NULL THEN (SELECT j FROM freshet_r) END, %s,
			freshet_s.same, %s, CASE WHEN freshet_v.rows > %d THEN '%s' END%s
		FROM freshet_v CROSS JOIN LATERAL (SELECT CASE
			WHEN %s = $%d::text AND %s THEN '%s'
			WHEN %s = $%d::bytea THEN '%s' END AS same OFFSET 0) freshet_s`,
		rows, version, value, selfDescription(withServer), short, most(q.Result), manyRows, tags,
		short, n+1, proved, bySameVersion, digestOf("(SELECT j FROM freshet_r)"), n, bySameDigest)
}

// short is a row version as it is stored: itself, or, of a long one, its digest.
const short = `CASE WHEN pg_catalog.length(freshet_v.version) <= 64 THEN '=' || freshet_v.version
	ELSE '#' || pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(freshet_v.version, 'UTF8')), 'hex') END`

// most is how many rows an entry's query may return.
func most(result rule.Result) int64 {
	if result == rule.Many {
		return math.MaxInt64
	}
	return 1
}

// regclass is a table's OID. The name is quoted for SQL, and here once more for a literal.
func regclass(table string) string {
	return "'" + strings.ReplaceAll(table, "'", "''") + "'::pg_catalog.regclass"
}

// physical is the condition under which equal physical versions mean equal values (docs/protocol.md): no row that the value
// is made of, and no column of its tables, was written by a transaction of the window from the horizon, parameter n, to the
// end of the statement's own snapshot. A row has 32 bits of an id; the window is shorter than that.
func physical(v *rule.RowVersion, n int) string {
	window := fmt.Sprintf("(pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8 - $%d::int8)", n)
	before := func(x string) string { return fmt.Sprintf("((%s - $%d::int8) & 4294967295) >= %s", x, n, window) }
	tables := make([]string, len(v.Tables))
	for i, table := range v.Tables {
		tables[i] = regclass(table)
	}
	return fmt.Sprintf(`%s BETWEEN 0 AND 2147483647
			AND (SELECT pg_catalog.bool_and(x >= 3 AND %s) FROM freshet_q, pg_catalog.unnest(freshet_xids) x) IS NOT FALSE
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid IN (%s) AND NOT %s)`,
		window, before("x"), strings.Join(tables, ", "), before("a.xmin::text::int8"))
}
