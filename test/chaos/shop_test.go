package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// How many keys each entry has. Few, so that readers, writers and faults meet on them.
const (
	items      = 40
	categories = 8
	people     = 30
	rates      = 6
)

// The tables. versions gives every change of an item a number higher than all before.
const shop = `
CREATE SEQUENCE versions;
CREATE TABLE items (id int8 PRIMARY KEY, name text NOT NULL, price numeric(10,2) NOT NULL, category int4 NOT NULL, v int8 NOT NULL);
ALTER TABLE items REPLICA IDENTITY FULL;
CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL);
CREATE TABLE profiles (user_id int8 PRIMARY KEY, bio text NOT NULL);
CREATE TABLE addresses (user_id int8 PRIMARY KEY, city text, hidden bool NOT NULL DEFAULT false);
CREATE TABLE notes (name text NOT NULL, xid xid8 NOT NULL, item int8 NOT NULL, version int8 NOT NULL, there bool NOT NULL);
CREATE TABLE rates (code int4 PRIMARY KEY, ratio numeric NOT NULL);
INSERT INTO items SELECT g, 'item ' || g, 5, g % %CATEGORIES% + 1, nextval('versions') FROM generate_series(1, %ITEMS%, 2) g;
INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, %PEOPLE%) n;
INSERT INTO profiles SELECT g, 'bio ' || g FROM generate_series(1, %PEOPLE%, 2) g;
INSERT INTO addresses SELECT g, 'city ' || g FROM generate_series(1, %PEOPLE%, 3) g;
INSERT INTO rates SELECT n, 10 * n FROM generate_series(1, %RATES%) n`

// An entry of each kind: a single table; a join with one that may be missing; many rows; a small table that is
// truncated; one that application code loads, slowly; one that nobody reads who loads from the replica. What is missing is
// cached too.
const entries = `
defaults: {ttl: 1h, negative_ttl: 1h, load_timeout: 3s}
entries:
  item:
    key: item:{id}
    query: SELECT id, name, price, v FROM items WHERE id = @id
  person:
    key: person:{id}
    query: |
      SELECT u.id, u.name, p.bio, a.city
      FROM users u
      JOIN profiles p ON p.user_id = u.id
      LEFT JOIN addresses a ON a.user_id = u.id
      WHERE u.id = @id
  category:
    key: category:{category}
    query: SELECT id, name, v FROM items WHERE category = @category ORDER BY id
    result: many
  rate:
    key: rate:{code}
    query: SELECT code, ratio FROM rates WHERE code = @code
  sure:
    key: sure:{id}
    query: SELECT id, v FROM items WHERE id = @id
  coded:
    key: coded:{id}
    depends_on:
      - {table: items, key: "{id}"}
`

// names of the entries, and how many keys each has.
func sizes() map[string]int64 {
	return map[string]int64{"item": items, "person": people, "category": categories, "rate": rates, "coded": items, "sure": items}
}

// truths are the queries that say what each key's value is, written down once more, without freshet.
func truths() map[string]string {
	one := func(query string) string {
		return "(SELECT row_to_json(q)::text FROM (" + query + ") q)"
	}
	return map[string]string{
		"item": one("SELECT id, name, price, v FROM items WHERE id = g"),
		"person": one(`SELECT u.id, u.name, p.bio, a.city FROM users u JOIN profiles p ON p.user_id = u.id
			LEFT JOIN addresses a ON a.user_id = u.id WHERE u.id = g`),
		"category": `(SELECT coalesce('[' || string_agg(row_to_json(q)::text, ',') || ']', '[]')
			FROM (SELECT id, name, v FROM items WHERE category = g ORDER BY id) q)`,
		"rate":  one("SELECT code, ratio FROM rates WHERE code = g"),
		"sure":  one("SELECT id, v FROM items WHERE id = g"),
		"coded": `(SELECT '{"id":' || id || ',"v":' || v || '}' FROM items WHERE id = g)`,
	}
}

// coded is the value of the entry that code loads.
type coded struct {
	ID int64 `json:"id"`
	V  int64 `json:"v"`
}

// truth is what the database answers, by key; what is not there is the empty text.
type truth map[string]string

func keyOf(entry string, id int64) string { return entry + ":" + strconv.FormatInt(id, 10) }

func readTruth(ctx context.Context, conn *pgx.Conn) (truth, error) {
	all := truth{}
	for entry, query := range truths() {
		rows, err := conn.Query(ctx, "SELECT g, "+query+" FROM generate_series(1, $1::int8) g", sizes()[entry])
		if err != nil {
			return nil, fmt.Errorf("ask for the truth of %s: %w", entry, err)
		}
		var (
			id    int64
			value *string
		)
		_, err = pgx.ForEachRow(rows, []any{&id, &value}, func() error {
			if all[keyOf(entry, id)] = ""; value != nil {
				all[keyOf(entry, id)] = *value
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("ask for the truth of %s: %w", entry, err)
		}
	}
	return all, nil
}

// versionOf reads v out of an item.
func versionOf(item string) (int64, error) {
	var row struct {
		V int64 `json:"v"`
	}
	if err := json.Unmarshal([]byte(item), &row); err != nil {
		return 0, fmt.Errorf("item %q: %w", item, err)
	}
	return row.V, nil
}
