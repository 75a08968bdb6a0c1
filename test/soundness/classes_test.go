package soundness

import "slices"

// The mistakes that a planner could make in a class of queries. Each is planted by way of queries that are planned
// without what it forgets.
const (
	onRestricts     = "ON of an outer join restricts the preserved side"
	mergedIsLeft    = "the column that FULL JOIN merges is that of the left side"
	scalarForces    = "an aggregate without GROUP BY needs a row"
	antiJoinPushed  = "IS NULL above an outer join filters the rows that are not there"
	notInPushed     = "NOT IN looks for equal values"
	notExistsPushed = "NOT EXISTS restricts the rows around it"
	firstOfOr       = "only the first alternative of OR counts"
	nullForgotten   = "a parameter that may be NULL has no key for it"
	limitIgnored    = "a condition passes through LIMIT"
	windowIgnored   = "a condition passes through a window"
	distinctIgnored = "a condition passes through DISTINCT ON"
	firstArm        = "only the first side of a set operation counts"
	viewInner       = "the outer join of a view is an inner one"
	viewUnread      = "the columns of a view's own condition do not count"
	caseUnread      = "the columns of CASE do not count"
	asItStands      = "a number that is cast to text is spelled as it stands"
	rowNeeded       = "a subquery beside an aggregate is asked only where there is a row"
	firstLimits     = "a subquery in LIMIT is asked only where the first side has a row"
)

// classes are queries that were chosen to cover what nests: each class with what a planner that is mistaken in it would
// take it for.
func classes() []watched {
	one := func(query string, naive ...string) watched {
		w := watched{query: query, key: "k:{p}", domains: []domain{integers()}, naive: map[string]string{}}
		for i := 0; i < len(naive); i += 2 {
			w.naive[naive[i]] = naive[i+1]
		}
		return w
	}
	two := func(second domain, query string, naive ...string) watched {
		w := one(query, naive...)
		w.key, w.domains = "k:{p}:{q}", []domain{integers(), second}
		return w
	}
	return []watched{
		// FULL JOIN
		one("SELECT a.kind, b.kind AS bk FROM a FULL JOIN b ON b.x = a.x AND a.live AND b.kind = 'x' WHERE a.x = @p",
			onRestricts, "SELECT a.kind, b.kind AS bk FROM a JOIN b ON b.x = a.x AND a.live AND b.kind = 'x' WHERE a.x = @p"),
		one("SELECT a.kind, b.kind AS bk FROM a FULL JOIN b ON b.x = a.x AND b.live AND a.kind = 'x' WHERE b.x = @p",
			onRestricts, "SELECT a.kind, b.kind AS bk FROM a JOIN b ON b.x = a.x AND b.live AND a.kind = 'x' WHERE b.x = @p"),
		one("SELECT x, a.kind, b.kind AS bk, b.live FROM a FULL JOIN b USING (x) WHERE x = @p AND a.kind IS NULL",
			mergedIsLeft, "SELECT a.x, a.kind, b.kind AS bk, b.live FROM a LEFT JOIN b ON b.x = a.x AND b.live WHERE a.x = @p AND a.kind IS NULL"),
		one("SELECT a.x, a.kind, b.kind AS bk, c.note FROM a FULL JOIN b USING (x) LEFT JOIN child c ON c.parent_id = x WHERE x = @p"),
		// EXISTS, IN, and their negations
		one("SELECT a.id, a.kind FROM a WHERE a.x = @p AND EXISTS (SELECT * FROM b WHERE b.x = a.x AND b.live AND b.id <> a.id)"),
		one("SELECT a.id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.x = a.id AND b.x = @p)"),
		one("SELECT a.id FROM a WHERE a.x = @p AND NOT EXISTS (SELECT 1 FROM b WHERE b.x = a.x AND a.kind = 'x' AND b.live)",
			notExistsPushed, "SELECT a.id FROM a WHERE a.x = @p AND EXISTS (SELECT 1 FROM b WHERE b.x = a.x AND a.kind = 'x' AND b.live)"),
		one("SELECT a.id FROM a WHERE a.x = @p AND a.kind = 'x' AND a.kind NOT IN (SELECT b.kind FROM b WHERE b.x = a.x)",
			notInPushed, "SELECT a.id FROM a WHERE a.x = @p AND a.kind = 'x' AND a.kind IN (SELECT b.kind FROM b WHERE b.x = a.x)"),
		one("SELECT a.id FROM a WHERE a.x = @p AND a.x IN (SELECT b.x FROM b WHERE b.live)"),
		one("SELECT a.id FROM a WHERE a.x IN (SELECT b.x FROM b WHERE b.x = @p AND b.kind IN (SELECT kind FROM d WHERE d.x = b.x))"),
		one("SELECT a.id FROM a WHERE (a.x, a.kind) IN (SELECT b.x, b.kind FROM b) AND a.x = @p"),
		one("SELECT a.id FROM a WHERE a.x = @p AND (a.live OR EXISTS (SELECT 1 FROM b WHERE b.x = a.x AND b.kind = 'x'))"),
		one("SELECT a.id, EXISTS (SELECT 1 FROM b WHERE b.x = a.x AND b.live) AS any FROM a WHERE a.x = @p"),
		// anti join
		one("SELECT a.id, b.y FROM a LEFT JOIN b ON b.x = a.x WHERE a.x = @p AND b.y IS NULL",
			antiJoinPushed, "SELECT a.id, b.y FROM a LEFT JOIN b ON b.x = a.x AND b.y IS NULL WHERE a.x = @p"),
		// scalar and LATERAL subqueries, derived tables, WITH
		one("SELECT a.kind, (SELECT count(*) FROM b WHERE b.x = a.x AND b.live) AS n, (SELECT max(b.y) FROM b WHERE b.x = a.x) AS most FROM a WHERE a.x = @p"),
		one("SELECT a.kind, s.n FROM a, LATERAL (SELECT count(*) AS n FROM b WHERE b.x = a.x AND a.live) s WHERE a.x = @p",
			scalarForces, "SELECT a.kind, s.n FROM a, LATERAL (SELECT b.id AS n FROM b WHERE b.x = a.x AND a.live) s WHERE a.x = @p"),
		one("SELECT a.id, l.id AS latest FROM a LEFT JOIN LATERAL (SELECT b.id, b.y FROM b WHERE b.x = a.x ORDER BY b.y DESC NULLS LAST, b.id LIMIT 1) l ON l.y > 0 WHERE a.x = @p"),
		one("SELECT s.x, s.n FROM (SELECT x, count(*) AS n, max(kind) AS most FROM a GROUP BY x HAVING count(*) > 1) s WHERE s.x = @p"),
		one("SELECT a.id, s.n FROM a JOIN (SELECT x, count(*) AS n FROM b WHERE live GROUP BY x) s ON s.x = a.x WHERE a.x = @p"),
		one("WITH s AS (SELECT id, x, kind FROM a WHERE live), r AS (SELECT x, max(kind) AS most FROM s GROUP BY x) SELECT s.id, r.most FROM s LEFT JOIN r ON r.x = s.x WHERE s.x = @p"),
		one("WITH s(k, v) AS (SELECT x, kind FROM b) SELECT l.v, r.v AS other FROM s l JOIN s r ON r.k = l.k AND r.v = 'x' WHERE l.k = @p"),
		one("SELECT d.id, d.other FROM (SELECT a.id, a.x, b.id AS other FROM a LEFT JOIN b ON b.x = a.x AND a.live) d WHERE d.x = @p",
			onRestricts, "SELECT d.id, d.other FROM (SELECT a.id, a.x, b.id AS other FROM a JOIN b ON b.x = a.x AND a.live) d WHERE d.x = @p"),
		// alternatives
		one("SELECT id, kind FROM a WHERE x = @p OR id = @p", firstOfOr, "SELECT id, kind FROM a WHERE x = @p"),
		one("SELECT a.id, b.id AS other FROM a JOIN b ON b.x = a.x AND (a.x = @p AND b.live OR b.x = @p AND a.kind = 'x')",
			firstOfOr, "SELECT a.id, b.id AS other FROM a JOIN b ON b.x = a.x AND a.x = @p AND b.live"),
		one("SELECT id FROM a WHERE @p IN (x, id) AND NOT (live OR kind = 'y')", firstOfOr, "SELECT id FROM a WHERE x = @p AND NOT live AND kind <> 'y'"),
		one("SELECT id, kind FROM a WHERE x = @p AND (kind = 'x' AND live OR kind = 'y' OR y IS NULL)"),
		// constants that are spelled otherwise
		one("SELECT id FROM a WHERE x = @p AND long = 1e2::text", asItStands, "SELECT id FROM a WHERE x = @p AND long = '1e2'"),
		one("SELECT id FROM a WHERE x = @p AND long <> 1e2::text AND y <> 2::int8"),
		one("SELECT id FROM a WHERE x = @p AND x = 1e0::int4 AND EXISTS (SELECT DISTINCT * FROM b WHERE b.x = a.x OFFSET 1)"),
		one("SELECT id FROM a WHERE x = @p AND EXISTS (SELECT * FROM (SELECT b.y FROM b WHERE b.x = a.x) s GROUP BY 1 HAVING count(*) > 1)"),
		two(domain{cast: "int8", values: []string{"0", "1", "2", "NULL"}}, "SELECT id, kind FROM a WHERE x = @p AND (@q IS NULL OR id = @q)",
			nullForgotten, "SELECT id, kind FROM a WHERE x = @p AND id = @q"),
		two(domain{cast: "text", values: []string{"x", "z"}}, "SELECT a.id, b.id AS other FROM a JOIN b ON b.x = a.x AND b.kind = 'x' WHERE a.x = @p AND b.kind = @q"),
		one("SELECT id FROM a WHERE x = @p AND id = ANY (ARRAY[1, 2]) AND kind LIKE 'x%'"),
		// aggregates, windows, LIMIT, DISTINCT
		one("SELECT count(*) AS n, sum(y) AS total, max(kind) AS most FROM a WHERE x = @p AND live"),
		one("SELECT kind, count(*) AS n, array_agg(id ORDER BY id) AS ids FROM a WHERE x = @p GROUP BY kind HAVING count(*) > 1"),
		one("SELECT kind, live, count(*) AS n FROM a WHERE x = @p GROUP BY ROLLUP (kind, live)"),
		one("SELECT count(*) AS n, (SELECT count(*) FROM b WHERE b.x = @p) AS m FROM a WHERE a.x = @p AND a.x = 3",
			rowNeeded, "SELECT a.id, (SELECT count(*) FROM b WHERE b.x = @p) AS m FROM a WHERE a.x = @p AND a.x = 3"),
		one("SELECT count(*) AS n FROM a WHERE a.x = @p AND a.x = 3 HAVING count(*) <= (SELECT count(*) FROM b WHERE b.x = @p)",
			rowNeeded, "SELECT a.id, (SELECT count(*) FROM b WHERE b.x = @p) AS m FROM a WHERE a.x = @p AND a.x = 3"),
		one("SELECT kind, count(*) AS n, (SELECT max(kind) FROM b WHERE b.x = @p) AS most FROM a WHERE a.x = @p AND a.x = 3 GROUP BY ROLLUP (kind)",
			rowNeeded, "SELECT a.id, (SELECT max(kind) FROM b WHERE b.x = @p) AS most FROM a WHERE a.x = @p AND a.x = 3"),
		one("SELECT DISTINCT kind FROM a WHERE x = @p"),
		one("SELECT DISTINCT ON (kind) kind, id FROM a WHERE x = @p ORDER BY kind, id"),
		one("SELECT id, kind FROM a WHERE x = @p ORDER BY y DESC NULLS LAST, id LIMIT 2"),
		one("SELECT id, rank() OVER (ORDER BY y, id) AS place, lag(kind) OVER (PARTITION BY live ORDER BY id) AS before FROM a WHERE x = @p"),
		one("SELECT d.id FROM (SELECT id, kind FROM a WHERE x = @p ORDER BY y DESC NULLS LAST, id LIMIT 2) d WHERE d.kind = 'x'",
			limitIgnored, "SELECT d.id FROM (SELECT id, kind, y FROM a WHERE x = @p) d WHERE d.kind = 'x'"),
		one("SELECT a.id FROM a WHERE a.x = @p AND a.kind = 'x' AND a.kind IN (SELECT b.kind FROM b WHERE b.x = a.x ORDER BY b.y DESC NULLS LAST, b.id LIMIT 1)",
			limitIgnored, "SELECT a.id FROM a WHERE a.x = @p AND a.kind = 'x' AND a.kind IN (SELECT b.kind FROM b WHERE b.x = a.x AND (b.y IS NULL OR b.y IS NOT NULL))"),
		one("SELECT d.id, d.place FROM (SELECT id, kind, rank() OVER (PARTITION BY live ORDER BY y, id) AS place FROM a WHERE x = @p) d WHERE d.kind = 'x'",
			windowIgnored, "SELECT d.id FROM (SELECT id, kind, live, y FROM a WHERE x = @p) d WHERE d.kind = 'x'"),
		one("SELECT d.id, d.place FROM (SELECT id, kind, row_number() OVER (ORDER BY id) AS place FROM b WHERE x = @p) d WHERE d.kind = 'x'",
			windowIgnored, "SELECT d.id FROM (SELECT id, kind FROM b WHERE x = @p) d WHERE d.kind = 'x'"),
		one("SELECT d.id FROM (SELECT DISTINCT ON (x) id, kind FROM b WHERE x = @p ORDER BY x, id) d WHERE d.kind = 'x'",
			distinctIgnored, "SELECT d.id FROM (SELECT id, kind FROM b WHERE x = @p) d WHERE d.kind = 'x'"),
		one("SELECT d.id FROM (SELECT id, kind FROM b WHERE x = @p ORDER BY id LIMIT 1) d WHERE d.kind = 'x'",
			limitIgnored, "SELECT d.id FROM (SELECT id, kind FROM b WHERE x = @p) d WHERE d.kind = 'x'"),
		one("SELECT d.id, d.place FROM (SELECT id, x, rank() OVER (PARTITION BY x ORDER BY y, id) AS place FROM a) d WHERE d.x = @p"),
		one("SELECT d.id, d.place FROM (SELECT id, x, rank() OVER w AS place FROM a WINDOW v AS (PARTITION BY x), w AS (v ORDER BY y, id)) d WHERE d.x = @p"),
		one("SELECT d.id FROM (SELECT DISTINCT ON (live) id, kind FROM a WHERE x = @p ORDER BY live, y, id) d WHERE d.kind = 'x'",
			distinctIgnored, "SELECT d.id FROM (SELECT id, kind, live, y FROM a WHERE x = @p) d WHERE d.kind = 'x'"),
		one("SELECT d.kind FROM (SELECT DISTINCT kind, x FROM a) d WHERE d.x = @p"),
		// set operations
		one("SELECT kind FROM a WHERE x = @p UNION SELECT kind FROM b WHERE x = @p", firstArm, "SELECT kind FROM a WHERE x = @p"),
		one("SELECT kind FROM a WHERE x = @p EXCEPT ALL SELECT kind FROM b WHERE x = @p", firstArm, "SELECT kind FROM a WHERE x = @p"),
		one("SELECT kind, id FROM a WHERE x = @p INTERSECT SELECT kind, id FROM b WHERE x = @p AND live ORDER BY 1, 2 LIMIT 1"),
		one("SELECT d.kind FROM (SELECT x, kind FROM a UNION ALL SELECT x, kind FROM b WHERE live EXCEPT SELECT id, kind FROM a) d WHERE d.x = @p"),
		one("SELECT b.id, d.kind FROM (SELECT x, kind FROM a WHERE live UNION SELECT id, kind FROM a) d JOIN b ON b.x = d.x AND b.kind = 'x' WHERE d.x = @p"),
		one("SELECT kind FROM a WHERE x = @p AND x = 3 UNION ALL SELECT kind FROM b WHERE x = @p ORDER BY 1 LIMIT (SELECT count(*) FROM c WHERE c.x = @p)",
			firstLimits, "SELECT kind, (SELECT count(*) FROM c WHERE c.x = @p) AS n FROM a WHERE x = @p AND x = 3 UNION ALL SELECT kind, 0::int8 FROM b WHERE x = @p"),
		// views, expressions
		one("SELECT id, kind FROM live_a WHERE x = @p"),
		one("SELECT id, kind FROM a_and_b WHERE x = @p",
			viewInner, "SELECT d.id, d.kind FROM (SELECT l.id, l.x, r.kind FROM a l JOIN b r ON r.x = l.x AND l.live) d JOIN b r ON r.x = d.x WHERE d.x = @p AND d.kind = 'x'"),
		one("SELECT n, most FROM per_x WHERE x = @p", viewUnread, "SELECT d.n, d.most FROM (SELECT x, count(*) AS n, max(y) AS most FROM b GROUP BY x) d WHERE d.x = @p"),
		one("SELECT a.id, p.n FROM a LEFT JOIN per_x p ON p.x = a.x WHERE a.x = @p"),
		one("SELECT id, place FROM placed WHERE x = @p AND kind = 'x'"),
		one("SELECT kind FROM of_parts WHERE x = @p"),
		one("SELECT id, upper(kind) AS up, CASE WHEN live THEN y ELSE -y END AS signed, y * 2 + 1 AS odd FROM a WHERE x = @p AND length(kind) < 2",
			caseUnread, "SELECT id, upper(kind) AS up, y * 2 + 1 AS odd FROM a WHERE x = @p"),
		one("SELECT id, greatest(y, 1) AS g, nullif(kind, 'x') AS k, kind || '!' AS shout, json_build_object('id', id, 'kind', kind) AS doc FROM a WHERE x = @p"),
		one("SELECT id, @p::int8 + 1 AS next FROM a WHERE x = @p AND y + 1 > 2"),
	}
}

// mistakes are those that queries are planned by.
func mistakes() []string {
	seen := map[string]bool{onRestricts: true} // planted everywhere
	var names []string
	for _, w := range classes() {
		for name := range w.naive {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
