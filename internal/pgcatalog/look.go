package pgcatalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/schema"
)

// Look is how a table looks at one moment, as far as no row in the log says so. Shape and Content are digests.
type Look struct {
	// Shape is what planning depends on: the table, its columns and what their types are made of, what its old row images
	// carry, what kinds of partitions there are, and what a view reads.
	Shape string
	// Content changes whenever what is read of the table may have changed without a change of a row: with where its rows
	// are kept, and with how a value that is kept is read.
	Content string
	// OID is the table's, by which the log knows it while it has another name.
	OID uint32
}

// Looks looks at the tables as they are now. One that does not exist is not among the answers.
//
// It is asked again and again, beside whoever alters the tables, so it takes no locks: pg_inherits is walked and
// expressions are compared as they are stored, since PostgreSQL's functions for both would wait. And it asks little at a
// time: for all of it in one statement the server would plan, or even compile, for longer than it runs. A change between
// two of the questions is seen by the next look at the latest.
func Looks(ctx context.Context, conn *pgx.Conn, tables []schema.Name) (map[schema.Name]Look, error) {
	l := looker{conn: conn, relations: map[uint32]*relation{}, types: map[uint32]*madeType{}}
	for _, ask := range []func(context.Context) error{
		func(ctx context.Context) error { return l.askTables(ctx, tables) }, l.askColumns, l.askParts, l.askTypes,
	} {
		if err := ask(ctx); err != nil {
			return nil, fmt.Errorf("look at the tables: %w", err)
		}
	}
	looks := make(map[schema.Name]Look, len(l.relations))
	for oid, r := range l.relations {
		look := l.look(r)
		look.OID = oid
		looks[r.name] = look
	}
	return looks, nil
}

// Names are all tables and views of the database that an entry can read; none, where there are as many as limit, or more.
func Names(ctx context.Context, conn *pgx.Conn, limit int) ([]schema.Name, error) {
	const query = `
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' LIMIT $1`
	rows, err := conn.Query(ctx, query, limit)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowToStructByPos[schema.Name])
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	if len(names) >= limit {
		return nil, nil
	}
	return names, nil
}

// Parts are the OIDs of the tables, and of all that is below them. Like Looks it takes no locks.
func Parts(ctx context.Context, conn *pgx.Conn, tables []schema.Name) (map[uint32]bool, error) {
	const query = `
WITH RECURSIVE part (oid) AS (
    SELECT c.oid FROM unnest($1::text[], $2::text[]) t (nspname, relname)
      JOIN pg_namespace n ON n.nspname = t.nspname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname
  UNION
    SELECT i.inhrelid FROM part p JOIN pg_inherits i ON i.inhparent = p.oid
)
SELECT oid FROM part`
	schemas, names := columnsOf(tables)
	rows, err := conn.Query(ctx, query, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("look at what is below the tables: %w", err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("look at what is below the tables: %w", err)
	}
	all := make(map[uint32]bool, len(oids))
	for _, oid := range oids {
		all[oid] = true
	}
	return all, nil
}

// columnsOf are names as two arrays, which unnest makes rows of.
func columnsOf(tables []schema.Name) (schemas, names []string) {
	schemas, names = make([]string, len(tables)), make([]string, len(tables))
	for i, t := range tables {
		schemas[i], names[i] = t.Schema, t.Name
	}
	return schemas, names
}

// looker is one run of Looks.
type looker struct {
	conn      *pgx.Conn
	relations map[uint32]*relation
	types     map[uint32]*madeType
}

// relation is a table that is looked at.
type relation struct {
	name      schema.Name
	parent    bool
	kept      string // where its own rows are
	shape     string
	columns   []string
	orders    []string // by what its texts are sorted
	computed  []string // expressions of generated columns
	types     []uint32 // those that users made
	parts     []string // where the partitions' rows are
	partKinds []string
}

func (l *looker) askTables(ctx context.Context, tables []schema.Name) error {
	const query = `
SELECT c.oid, n.nspname::text, c.relname::text, c.relhassubclass, c.relfilenode::text,
       concat_ws(' ', c.oid, c.relkind, c.relpersistence, c.relreplident, c.relrowsecurity, c.relhassubclass, c.relispartition,
         CASE c.relkind WHEN 'v' THEN (SELECT md5(w.ev_action::text) FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type = '1') END,
         (SELECT string_agg(concat_ws(' ', indexrelid, indisprimary, indisreplident, indimmediate, indkey), ',' ORDER BY indexrelid)
            FROM pg_index WHERE indrelid = c.oid AND (indisprimary OR indisreplident)))
  FROM unnest($1::text[], $2::text[]) t (nspname, relname)
  JOIN pg_namespace n ON n.nspname = t.nspname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.relname`
	schemas, names := columnsOf(tables)
	rows, err := l.conn.Query(ctx, query, schemas, names)
	if err != nil {
		return err
	}
	var (
		oid   uint32
		r     relation
		shape string
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &r.name.Schema, &r.name.Name, &r.parent, &r.kept, &shape}, func() error {
		found := r
		found.shape = shape
		l.relations[oid] = &found
		return nil
	})
	return err
}

// A collation's version is the library's own, not the one that was recorded: what counts is how rows are sorted now.
func (l *looker) askColumns(ctx context.Context) error {
	const query = `
SELECT a.attrelid, a.atttypid,
       concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attgenerated),
       CASE WHEN a.attcollation <> 0 THEN concat_ws(' ', a.attcollation, pg_collation_actual_version(a.attcollation),
         CASE WHEN a.attcollation <> (SELECT t.typcollation FROM pg_type t WHERE t.oid = a.atttypid) THEN a.attnum END) END,
       CASE WHEN a.attgenerated <> '' THEN concat_ws(' ', a.attnum,
         (SELECT md5(d.adbin::text) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum)) END
  FROM pg_attribute a WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum`
	rows, err := l.conn.Query(ctx, query, slices.Collect(maps.Keys(l.relations)))
	if err != nil {
		return err
	}
	var (
		table, kind     uint32
		column          string
		order, computed *string
	)
	_, err = pgx.ForEachRow(rows, []any{&table, &kind, &column, &order, &computed}, func() error {
		r := l.relations[table]
		r.columns = append(r.columns, column)
		if order != nil && !slices.Contains(r.orders, *order) {
			r.orders = append(r.orders, *order)
		}
		if computed != nil {
			r.computed = append(r.computed, *computed)
		}
		if kind >= firstUserOID {
			r.types = append(r.types, kind)
		}
		return nil
	})
	return err
}

// askParts finds what is below the tables. Rows come and go with partitions, and are rewritten in them.
func (l *looker) askParts(ctx context.Context) error {
	var roots []uint32
	computed := false // a partition's columns are generated where the table's are, by an expression that may be its own
	for oid, r := range l.relations {
		if r.parent {
			roots = append(roots, oid)
			computed = computed || len(r.computed) > 0
		}
	}
	if len(roots) == 0 {
		return nil
	}
	const walk = `
WITH RECURSIVE part (root, oid, leaving) AS (
    SELECT inhparent, inhrelid, inhdetachpending FROM pg_inherits WHERE inhparent = ANY ($1::oid[])
  UNION ALL
    SELECT p.root, i.inhrelid, i.inhdetachpending FROM part p JOIN pg_inherits i ON i.inhparent = p.oid
)
SELECT root, oid, leaving FROM part ORDER BY oid`
	type part struct {
		Root, OID uint32
		Leaving   bool
	}
	rows, err := l.conn.Query(ctx, walk, roots)
	if err != nil {
		return err
	}
	parts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[part])
	if err != nil {
		return err
	}
	oids := make([]uint32, len(parts))
	for i := range parts {
		oids[i] = parts[i].OID
	}
	const describe = `
SELECT c.oid, c.relfilenode::text, concat_ws(' ', c.relkind, c.relpersistence, c.relreplident),
       CASE WHEN $2 THEN (SELECT md5(string_agg(concat_ws(' ', d.adnum, d.adbin::text), ',' ORDER BY d.adnum))
          FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE d.adrelid = c.oid AND a.attgenerated <> '') END
  FROM pg_class c WHERE c.oid = ANY ($1::oid[])`
	if rows, err = l.conn.Query(ctx, describe, oids, computed); err != nil {
		return err
	}
	type described struct {
		OID        uint32
		Kept, Kind string
		Computed   *string
	}
	found := map[uint32]described{}
	var d described
	if _, err := pgx.ForEachRow(rows, []any{&d.OID, &d.Kept, &d.Kind, &d.Computed}, func() error {
		found[d.OID] = d
		return nil
	}); err != nil {
		return err
	}
	for _, p := range parts {
		r, d := l.relations[p.Root], found[p.OID]
		if r == nil {
			continue
		}
		r.parts = append(r.parts, fmt.Sprint(p.OID, d.Kept, p.Leaving))
		if !slices.Contains(r.partKinds, d.Kind) {
			r.partKinds = append(r.partKinds, d.Kind)
		}
		if d.Computed != nil {
			r.computed = append(r.computed, *d.Computed)
		}
	}
	return nil
}

// madeType is a type that users made.
type madeType struct {
	text  string
	below []uint32 // what it is made of
}

// askTypes follows types down to what they are made of, as far as users made that too. The text has the labels of an
// enum, the attributes of a composite type, the cast to json, which is what values are read as, and the version of the
// extension that the type is of.
func (l *looker) askTypes(ctx context.Context) error {
	const query = `
SELECT t.oid,
       concat_ws(' ', t.oid, t.typtype, t.typoutput,
         (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
         (SELECT string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod), ',' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
         (SELECT concat_ws(' ', k.castfunc, k.castmethod, md5(p.prosrc)) FROM pg_cast k LEFT JOIN pg_proc p ON p.oid = k.castfunc
           WHERE k.castsource = t.oid AND k.casttarget = 'pg_catalog.json'::pg_catalog.regtype),
         (SELECT x.extversion FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
           WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.deptype = 'e'
             AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass)),
       ARRAY(SELECT t.typelem UNION ALL SELECT t.typbasetype
         UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
         UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
         UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid)
  FROM pg_type t WHERE t.oid = ANY ($1::oid[])`
	var next []uint32
	want := func(oids []uint32) {
		for _, oid := range oids {
			if oid >= firstUserOID && l.types[oid] == nil {
				l.types[oid] = &madeType{}
				next = append(next, oid)
			}
		}
	}
	for _, r := range l.relations {
		want(r.types)
	}
	for len(next) > 0 {
		rows, err := l.conn.Query(ctx, query, next)
		if err != nil {
			return err
		}
		next = nil
		var (
			oid   uint32
			text  string
			below []uint32
		)
		_, err = pgx.ForEachRow(rows, []any{&oid, &text, &below}, func() error {
			l.types[oid].text, l.types[oid].below = text, slices.Clone(below)
			want(below)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *looker) look(r *relation) Look {
	types := l.describe(r.types)
	slices.Sort(r.orders)
	slices.Sort(r.partKinds)
	return Look{
		Shape:   digest([]string{r.shape}, r.columns, r.partKinds, types),
		Content: digest([]string{r.kept}, r.parts, types, r.computed, r.orders),
	}
}

// describe is what the types say, and all that they are made of.
func (l *looker) describe(oids []uint32) []string {
	reached := map[uint32]bool{}
	for todo := slices.Clone(oids); len(todo) > 0; {
		oid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if l.types[oid] == nil || reached[oid] {
			continue
		}
		reached[oid] = true
		todo = append(todo, l.types[oid].below...)
	}
	texts := make([]string, 0, len(reached))
	for _, oid := range slices.Sorted(maps.Keys(reached)) {
		texts = append(texts, l.types[oid].text)
	}
	return texts
}

func digest(lists ...[]string) string {
	sum := sha256.New()
	for _, list := range lists {
		_, _ = fmt.Fprintf(sum, "%d\n%s\n", len(list), strings.Join(list, "\n")) // a hash takes every write
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}
