package soundness

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/freshet/freshet/internal/rule"
)

// The tables. Every one has few possible values, so that random writes meet the keys that are watched. y and kind can
// be NULL, and so can everything in the tables of people; long is sometimes too large for its row (TOAST).
const tables = `
CREATE TYPE state AS ENUM ('new', 'paid', 'sent');
CREATE TABLE a (id int PRIMARY KEY, x int NOT NULL, y int, kind text, live boolean, long text);
CREATE TABLE b (id int PRIMARY KEY, x int NOT NULL, y int, kind text, live boolean, long text);
CREATE TABLE c (id bigint PRIMARY KEY, x bigint NOT NULL, y int, kind text, live boolean, long text);
CREATE TABLE d (id smallint NOT NULL, x int NOT NULL, y int, kind varchar(20), live boolean, long text, PRIMARY KEY (x, id));
CREATE TABLE made (id int PRIMARY KEY, x int NOT NULL, twice int GENERATED ALWAYS AS (x * 2) STORED);
CREATE TABLE parent (id int PRIMARY KEY, name text, deleted_at timestamptz);
CREATE TABLE child (id int PRIMARY KEY, parent_id int NOT NULL REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, note text);
CREATE TABLE typed (id int PRIMARY KEY, n numeric NOT NULL, s text NOT NULL, u uuid NOT NULL, d date NOT NULL, e state NOT NULL, ok boolean NOT NULL, tz timestamptz NOT NULL, note text);
CREATE TABLE parts (id int NOT NULL, shard int NOT NULL, note text, PRIMARY KEY (id, shard)) PARTITION BY LIST (shard);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0, 1);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (2, 3);
CREATE VIEW live_a AS SELECT id, x, kind FROM a WHERE live;
CREATE VIEW a_and_b AS SELECT l.id, l.x, r.kind FROM a l LEFT JOIN b r ON r.x = l.x AND l.live;
CREATE VIEW of_parts AS SELECT id, shard AS x, note AS kind FROM parts UNION ALL SELECT id, x, kind FROM live_a;
CREATE VIEW per_x AS SELECT x, count(*) AS n, max(y) AS most FROM b WHERE kind <> 'z' GROUP BY x;
CREATE FUNCTION most(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT max(kind) FROM public.b WHERE x = $1';
CREATE VIEW placed AS SELECT id, x, kind, rank() OVER (PARTITION BY x ORDER BY y DESC NULLS LAST, id) AS place FROM a;
CREATE FUNCTION rewrite_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.y = 3 THEN NEW.kind := 'z'; END IF; RETURN NEW; END $$;
CREATE FUNCTION write_c() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE c SET kind = NEW.kind WHERE id = NEW.id AND y = 1; RETURN NULL; END $$;
CREATE FUNCTION write_parent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE parent SET name = NEW.kind WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER before_a BEFORE INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION rewrite_row();
CREATE TRIGGER after_b AFTER INSERT OR UPDATE ON b FOR EACH ROW EXECUTE FUNCTION write_c();
CREATE CONSTRAINT TRIGGER at_commit_c AFTER UPDATE ON c DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION write_parent();
`

// identityFull has the log carry whole old rows. Partitions keep their primary key (plan refuses anything else).
const identityFull = `
ALTER TABLE a REPLICA IDENTITY FULL; ALTER TABLE b REPLICA IDENTITY FULL; ALTER TABLE c REPLICA IDENTITY FULL;
ALTER TABLE d REPLICA IDENTITY FULL; ALTER TABLE parent REPLICA IDENTITY FULL; ALTER TABLE child REPLICA IDENTITY FULL;
ALTER TABLE typed REPLICA IDENTITY FULL; ALTER TABLE made REPLICA IDENTITY FULL;
`

// identityMinimal has it carry as little as the rules need: the primary key, or an index as plan's errors propose it.
const identityMinimal = `
CREATE UNIQUE INDEX a_freshet ON a (id, x); ALTER TABLE a REPLICA IDENTITY USING INDEX a_freshet;
CREATE UNIQUE INDEX b_freshet ON b (id, x); ALTER TABLE b REPLICA IDENTITY USING INDEX b_freshet;
CREATE UNIQUE INDEX c_freshet ON c (id, x); ALTER TABLE c REPLICA IDENTITY USING INDEX c_freshet;
CREATE UNIQUE INDEX child_freshet ON child (id, parent_id); ALTER TABLE child REPLICA IDENTITY USING INDEX child_freshet;
CREATE UNIQUE INDEX typed_freshet ON typed (id, n, s, u, d, e, ok, tz); ALTER TABLE typed REPLICA IDENTITY USING INDEX typed_freshet;
`

// domain is where the values of a parameter come from.
type domain struct {
	cast   string
	values []string // as somebody may write them
}

func integers() domain { return domain{cast: "int8", values: []string{"0", "1", "2", "3", "4"}} }

// watched is an entry and the keys of it that are compared.
type watched struct {
	query     string
	key       string
	domains   []domain // of each parameter, in the order of the key
	ordered   bool     // ORDER BY is total: the order counts
	random    bool
	name      string              // of the entry, where it has one
	functions map[string][]string // of users that the query calls, and what they read
	naive     map[string]string   // queries whose rules stand for those that a planner with that mistake would make
}

func (w watched) declared(i int) rule.Declared {
	return rule.Declared{Name: cmp.Or(w.name, fmt.Sprintf("entry%d", i)), Key: w.key, Query: w.query, Result: rule.Many, Functions: w.functions}
}

// fixed are the queries that were chosen to cover the planner's rules.
func fixed() []watched {
	one := func(query string, domains ...domain) watched {
		if len(domains) == 0 {
			domains = []domain{integers()}
		}
		key := "k:{p}"
		if len(domains) > 1 {
			key = "k:{p}:{q}"
		}
		return watched{query: query, key: key, domains: domains, ordered: strings.Contains(query, "ORDER BY")}
	}
	text := domain{cast: "text", values: []string{"", "x", "X", "it's: {%}", "ü"}}
	return []watched{
		one("SELECT * FROM a WHERE id = @p"),
		one("SELECT id, kind FROM a WHERE x = @p ORDER BY id"),
		one("SELECT kind, long FROM d WHERE x = @p AND id = @q", integers(), integers()),
		one("SELECT kind FROM d WHERE id = @p AND x = @q", integers(), integers()),
		one("SELECT a.kind, b.kind AS other FROM a JOIN b ON b.id = a.id WHERE a.id = @p"),
		one("SELECT a.id, b.id AS other FROM a, b WHERE a.x = b.x AND b.x = @p ORDER BY 1, 2"),
		one("SELECT a.kind, b.kind AS bk, c.kind AS ck FROM a JOIN b ON b.x = a.id LEFT JOIN c ON c.x = a.id WHERE a.id = @p"),
		// an outer join's ON says nothing of the preserved side
		one("SELECT a.kind, b.kind AS bk FROM a LEFT JOIN b ON b.x = a.id AND a.live AND a.kind = 'x' WHERE a.id = @p"),
		one("SELECT a.kind, b.kind AS bk FROM b RIGHT JOIN a ON b.x = a.id AND a.y IS NULL AND b.live WHERE a.id = @p"),
		// forced: the parameter, or a condition, is on the nullable side
		one("SELECT a.kind, b.kind AS bk FROM a LEFT JOIN b ON b.x = a.x WHERE b.x = @p"),
		one("SELECT a.kind, c.kind AS ck FROM a LEFT JOIN b ON b.x = a.x LEFT JOIN c ON c.x = b.x WHERE c.live AND a.x = @p"),
		one("SELECT a.kind, b.kind AS bk, c.kind AS ck FROM a LEFT JOIN b ON b.x = a.x LEFT JOIN c ON c.x = b.x AND b.kind = 'x' WHERE a.x = @p"),
		one("SELECT a.kind, b.kind AS bk, c.kind AS ck FROM a LEFT JOIN (b JOIN c ON c.x = b.x AND c.live) ON b.x = a.id WHERE a.id = @p"),
		// anti joins: the condition on the row that is not there filters nothing
		one("SELECT a.id, a.kind FROM a LEFT JOIN b ON b.x = a.x WHERE a.x = @p AND b.id IS NULL ORDER BY 1"),
		one("SELECT a.id, b.y FROM a LEFT JOIN b ON b.x = a.x AND b.live WHERE a.x = @p AND b.y IS NULL ORDER BY a.id, b.id"),
		one("SELECT a.id FROM a LEFT JOIN b ON b.x = a.x WHERE a.x = @p AND b.live IS NOT TRUE"),
		// self joins
		one("SELECT l.kind, r.kind AS other FROM a l JOIN a r ON r.x = l.id WHERE l.id = @p"),
		one("SELECT l.id, r.id AS other FROM b l JOIN b r ON r.x = l.x AND r.kind = 'x' WHERE l.x = @p AND NOT l.live ORDER BY 1, 2"),
		// constant conditions
		one("SELECT id, kind FROM a WHERE x = @p AND live AND kind IN ('x', 'y') AND y IS NOT NULL ORDER BY id"),
		one("SELECT id FROM a WHERE x = @p AND kind <> 'x' AND y NOT IN (1, 2) ORDER BY id"),
		one("SELECT id FROM c WHERE x = @p AND y > 1 AND y BETWEEN 0 AND 3 AND live IS NOT FALSE"),
		one("SELECT id FROM a WHERE live IS UNKNOWN AND x = @p"),
		one("SELECT name FROM parent WHERE id = @p AND deleted_at IS NULL"),
		one("SELECT p.name, c.id, c.note FROM parent p JOIN child c ON c.parent_id = p.id WHERE p.id = @p AND p.deleted_at IS NULL ORDER BY c.id"),
		one("SELECT p.name, c.note FROM parent p LEFT JOIN child c ON c.parent_id = p.id AND p.deleted_at IS NULL WHERE p.id = @p"),
		one("SELECT id, shard, note FROM parts WHERE id = @p ORDER BY shard"),
		one("SELECT id, note FROM parts WHERE shard = @p ORDER BY id"),
		one("SELECT id, coalesce(kind, long, 'none') AS text, 1 AS one FROM b WHERE x = @p AND x = id"),
		{query: "SELECT id, name FROM parent WHERE deleted_at IS NULL ORDER BY id", key: "all", ordered: true},
		// types of keys, under spellings of each value that are not the log's
		one("SELECT id, note FROM typed WHERE n = @p ORDER BY id", domain{cast: "numeric", values: []string{"1", "1.00", "2.50", "-0.0", "1e2"}}),
		one("SELECT id, note FROM typed WHERE s = @p ORDER BY id", text),
		one("SELECT id, note FROM typed WHERE u = @p ORDER BY id", domain{cast: "uuid", values: []string{"{00000000-0000-0000-0000-00000000000A}", "00000000-0000-0000-0000-00000000000b"}}),
		one("SELECT id, note FROM typed WHERE d = @p AND e = @q ORDER BY id", domain{cast: "date", values: []string{"2026-01-01", "20260102"}}, domain{cast: "state", values: []string{"new", "paid"}}),
		one("SELECT id, note FROM typed WHERE ok = @p AND s = @q AND e <> 'sent' AND n = 1 ORDER BY id", domain{cast: "bool", values: []string{"yes", "f"}}, text),
		one("SELECT id, note FROM typed WHERE tz = @p ORDER BY id", domain{cast: "timestamptz", values: []string{"2026-01-01 12:00:00+02", "2026-01-01T10:00:00Z", "2026-01-02 00:00:00+00"}}),
		one("SELECT l.note, r.note AS other FROM typed l JOIN typed r ON r.n = l.n WHERE l.n = @p", domain{cast: "numeric", values: []string{"1.0", "2.5"}}),
	}
}

// writer makes random statements.
type writer struct{ *rand.Rand }

func (w writer) pick(from ...string) string { return from[w.IntN(len(from))] }

func (w writer) small() string { return w.pick("0", "1", "2", "3", "4") }

func (w writer) maybe(value string) string { return w.pick(value, value, "NULL") }

func (w writer) long() string {
	if w.IntN(4) > 0 {
		return w.pick("'short'", "'100'", "'1e2'")
	}
	// Large and not compressible, so that it moves out of the row.
	var b strings.Builder
	for b.Len() < 6000 {
		fmt.Fprintf(&b, "%016x", w.Uint64())
	}
	return "'" + b.String() + "'"
}

// column is a column and how to make a value of it.
type column struct {
	name  string
	value func() string
}

func (w writer) columns(table string) []column {
	small := w.small
	nullable := func() string { return w.maybe(w.small()) }
	kind := func() string { return w.maybe(w.pick("'x'", "'y'", "'z'")) }
	live := func() string { return w.maybe(w.pick("true", "false")) }
	switch table {
	case "parent":
		return []column{{"id", small}, {"name", kind}, {"deleted_at", func() string { return w.maybe("'2026-01-01 00:00:00+00'") }}}
	case "made":
		return []column{{"id", small}, {"x", small}}
	case "child":
		return []column{{"id", small}, {"parent_id", small}, {"note", kind}}
	case "parts":
		return []column{{"id", small}, {"shard", func() string { return w.pick("0", "1", "2", "3") }}, {"note", kind}}
	case "typed":
		return []column{
			{"id", small},
			{"n", func() string { return w.pick("1", "1.0", "1.00", "2.5", "0.0", "100") }},
			{"s", func() string { return w.pick("''", "'x'", "'X'", "'it''s: {%}'", "'ü'") }},
			{"u", func() string {
				return w.pick("'00000000-0000-0000-0000-00000000000a'", "'00000000-0000-0000-0000-00000000000b'")
			}},
			{"d", func() string { return w.pick("'2026-01-01'", "'2026-01-02'") }},
			{"e", func() string { return w.pick("'new'", "'paid'", "'sent'") }},
			{"ok", func() string { return w.pick("true", "false") }},
			{"tz", func() string { return w.pick("'2026-01-01 10:00:00+00'", "'2026-01-02 00:00:00+00'") }},
			{"note", kind},
		}
	}
	return []column{{"id", small}, {"x", small}, {"y", nullable}, {"kind", kind}, {"live", live}, {"long", w.long}}
}

// statement is a random write.
func (w writer) statement() string {
	table := w.pick("a", "a", "a", "b", "b", "b", "c", "c", "d", "parent", "child", "typed", "typed", "parts")
	if w.IntN(24) == 0 { // few queries read it
		table = "made"
	}
	columns := w.columns(table)
	where := func() string {
		c := columns[w.IntN(2)] // the first two are numbers
		return " WHERE " + c.name + " = " + c.value()
	}
	switch n := w.IntN(100); {
	case n < 40:
		names, values := make([]string, len(columns)), make([]string, len(columns))
		for i, c := range columns {
			names[i], values[i] = c.name, c.value()
		}
		return "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT DO NOTHING"
	case n < 70:
		var set []string
		for range 1 + w.IntN(2) {
			c := columns[1+w.IntN(len(columns)-1)]
			if one := c.name + " = " + c.value(); len(set) == 0 || !strings.HasPrefix(set[0], c.name+" =") {
				set = append(set, one)
			}
		}
		return "UPDATE " + table + " SET " + strings.Join(set, ", ") + where()
	case n < 78:
		return "UPDATE " + table + " SET id = " + w.small() + " WHERE id = " + w.small()
	case n < 82: // nothing changes, and is logged all the same
		return "UPDATE " + table + " SET " + columns[1].name + " = " + columns[1].name + where()
	case n < 98:
		return "DELETE FROM " + table + where()
	case n < 99:
		return "TRUNCATE " + w.pick("a", "b", "a, c", "typed", "parts")
	}
	return "TRUNCATE parent CASCADE"
}

// query makes a random query over the tables a to d. Most are refused; what is accepted has to be sound.
func (w writer) query() watched {
	n := []int{1, 2, 2, 2, 3, 3, 3, 3}[w.IntN(8)]
	var names []string
	condition := func(from []string) string {
		l, r := from[w.IntN(len(from))], from[w.IntN(len(from))]
		number := func() string { return w.pick("id", "x", "x", "x", "y") }
		switch w.IntN(12) {
		case 0:
			return l + "." + number() + " = @p"
		case 1:
			return l + ".kind = 'x'"
		case 2:
			return l + ".live"
		case 3:
			return "NOT " + l + ".live"
		case 4:
			return l + "." + w.pick("y", "kind", "live") + " IS NULL"
		case 5:
			return l + "." + w.pick("y", "kind") + " IS NOT NULL"
		case 6:
			return l + ".y " + w.pick("NOT IN (1, 2)", "IN (0, 3)", "<> 2", "> 1")
		case 7:
			return l + ".live IS " + w.pick("TRUE", "FALSE", "NOT TRUE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN")
		}
		return l + "." + number() + " = " + r + "." + number()
	}
	on := func(from []string) string {
		last := from[len(from)-1]
		out := []string{last + "." + w.pick("x", "x", "id", "y") + " = " + from[w.IntN(max(1, len(from)-1))] + "." + w.pick("x", "x", "id", "y")}
		for w.IntN(3) == 0 {
			out = append(out, condition(from))
		}
		return strings.Join(out, " AND ")
	}
	item := func() string {
		names = append(names, fmt.Sprintf("t%d", len(names)))
		return w.pick("a", "b", "c", "d") + " " + names[len(names)-1]
	}
	kind := func() string { return w.pick(" JOIN ", " LEFT JOIN ", " LEFT JOIN ", " RIGHT JOIN ") }
	from := item()
	switch {
	case n == 2:
		from += kind() + item() + " ON " + on(names)
	case n == 3 && w.IntN(3) == 0: // the right side is a join
		inner := item() + kind() + item()
		from += kind() + "(" + inner + " ON " + on(names[1:]) + ") ON " + on(names)
	case n == 3:
		from += kind() + item() + " ON " + on(names)
		from += kind() + item() + " ON " + on(names)
	}
	where := []string{names[w.IntN(len(names))] + "." + w.pick("id", "x", "x") + " = @p"}
	for w.IntN(2) == 0 {
		where = append(where, condition(names))
	}
	var list []string
	for i, name := range names {
		for _, c := range []string{"id", "x", "y", "kind", "live"} {
			if w.IntN(3) == 0 {
				list = append(list, fmt.Sprintf("%s.%s AS %s%d", name, c, c, i))
			}
		}
	}
	if len(list) == 0 {
		list = []string{"1 AS one"}
	}
	return watched{
		query: "SELECT " + strings.Join(list, ", ") + " FROM " + from + " WHERE " + strings.Join(where, " AND "), key: "k:{p}", domains: []domain{integers()}, random: true,
	}
}
