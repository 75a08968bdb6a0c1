package keytext_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// spell draws a spelling of a value of the type, such that equal values come up often.
func spell(r *rand.Rand, t keytext.Type) string {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	digits := func() string { return pick("", "0", "00") + strconv.Itoa(r.IntN(30)) + pick("", "0", "000") }
	day := func() string {
		return pick("2024", "0001", "1582", "12024", "0044") + "-" + pick("1", "01", "02", "10", "12") + "-" + pick("1", "01", "28", "5", "05")
	}
	clock := func() string {
		return pick(" ", "T", "t") + pick("0:00", "00:00:00", "23:59:59", "7:08", "07:08:00") + pick("", "", ":59.5", ":59.50", ":00.000001")
	}
	era := func() string { return pick("", "", "", " BC", " AD", " bc") }
	switch t {
	case keytext.Int2, keytext.Int4, keytext.Int8:
		return pick("", " ") + pick("", "-", "+") + digits() + pick("", " ", "\n")
	case keytext.OID:
		return pick("", "-", "+", "42949672") + digits()
	case keytext.Bool:
		return pick("t", "true", "TRU", "y", "yes", "on", "ON", "1", "f", "false", "fal", "n", "no", "of", "off", "0", " t ", "\tno")
	case keytext.UUID:
		id := fmt.Sprintf("%04x%04x-%04x", r.IntN(3), 0xabcd, r.IntN(3)) + pick("-", "") + "4ef8" + pick("-", "") + "bb6d" + pick("-", "") + "6bb9-bd380a11"
		if r.IntN(2) == 0 {
			id = strings.ToUpper(id)
		}
		if r.IntN(3) == 0 {
			id = "{" + id + "}"
		}
		return id
	case keytext.String, keytext.Unknown:
		return pick("a", "A", "á", "a\u0301", " a", "a ", "", "a:b", "日本", "ß", "ss", "%41")
	case keytext.Enum:
		return pick("new", "New", "in stock", "paid")
	case keytext.Numeric:
		return pick("", "", "-", "+") + pick(digits()+pick("", ".", ".0", ".500", ".05"), "."+strconv.Itoa(r.IntN(50))) +
			pick("", "", "", "e0", "e2", "E-3", "e+1")
	case keytext.Date:
		return pick("", " ") + pick(day(), day(), "20240229", "infinity", "-Infinity") + era()
	case keytext.Timestamp:
		return pick(day()+pick("", clock()), "infinity", "-infinity") + era()
	case keytext.Timestamptz:
		return pick(day()+clock()+pick("", " ")+pick("Z", "+00", "+02", "-02:30", "+0530", "-11:22:33", "+14"), "infinity") + era()
	case keytext.Bytea:
		return pick(`\x`, `\xAB`, `\xab`, `\xa b`, `\253`, "\\x61", "a", `\141`, `a\\`, `\x615C`, `\x61 5c`, "é", "", `\000`)
	}
	if element, ok := t.Element(); ok {
		elements := make([]string, r.IntN(3))
		for i := range elements {
			elements[i] = pick(spell(r, element), spell(r, element), "null", "NULL", `"null"`, `a\ `)
			if quoted := pick("", "", `"`); quoted != "" {
				elements[i] = quoted + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(elements[i]) + quoted
			}
		}
		return pick("", " ") + "{" + pick("", " ") + strings.Join(elements, pick(",", " , ")) + pick("", "\n") + "}" + pick("", " ")
	}
	return ""
}

// TestAgreesWithPostgreSQL draws spellings of every type and asks a real server which of them are equal, and how it
// prints them in a session with the settings of the log.
func TestAgreesWithPostgreSQL(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	url := server.Database(t)
	server.Exec(t, url, `CREATE TYPE stage AS ENUM ('new', 'New', 'in stock', 'paid')`)
	for _, typ := range types() {
		t.Run(string(typ), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			conn, err := pgx.Connect(ctx, url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(ctx) }()
			if _, err := conn.Exec(ctx, `SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET bytea_output = 'hex'`); err != nil {
				t.Fatal(err)
			}
			name := string(typ)
			if typ == keytext.Enum {
				name = "stage"
			}
			r := rand.New(rand.NewPCG(1, 2))
			var in, want []string
			refused := 0
			for len(in) < 400 {
				s := spell(r, typ)
				canonical, err := keytext.Canonical(typ, s)
				if err != nil {
					refused++
					if refused > 4000 {
						t.Fatalf("nearly everything is refused: %v", err)
					}
					continue
				}
				in, want = append(in, s), append(want, canonical)
			}
			// What we accept, the server accepts; and its own text has the same canonical text.
			rows, err := conn.Query(ctx, `SELECT x::`+name+`::text FROM unnest($1::text[]) WITH ORDINALITY AS u(x, i) ORDER BY i`, in)
			if err != nil {
				t.Fatal(err)
			}
			printed, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range printed {
				got, err := keytext.AppendCanonicalLog(nil, typ, []byte(s))
				if err != nil || string(got) != want[i] {
					t.Errorf("%q: the log's %q gives %q, %v, the caller's text gives %q", in[i], s, got, err, want[i])
				}
			}
			// Two have one text exactly if they are equal.
			rows, err = conn.Query(ctx, `WITH v AS MATERIALIZED (SELECT i, x::`+name+` AS x FROM unnest($1::text[]) WITH ORDINALITY AS u(x, i))
				SELECT a.i - 1, b.i - 1 FROM v a JOIN v b ON a.x = b.x`, in)
			if err != nil {
				t.Fatal(err)
			}
			type pair struct{ a, b int }
			equal := map[pair]bool{}
			var p pair
			if _, err := pgx.ForEachRow(rows, []any{&p.a, &p.b}, func() error { equal[p] = true; return nil }); err != nil {
				t.Fatal(err)
			}
			different := 0
			for a := range in {
				for b := range in {
					if got := want[a] == want[b]; got != equal[pair{a, b}] {
						t.Fatalf("%q and %q: equal is %v in PostgreSQL, canonical texts are %q and %q", in[a], in[b], !got, want[a], want[b])
					}
					if want[a] != want[b] {
						different++
					}
				}
			}
			if len(equal) <= len(in) || different == 0 {
				t.Errorf("the drawn values are one-sided: %d equal pairs, %d different", len(equal), different)
			}
		})
	}
}

// TestBoundsAgreeWithPostgreSQL asks about values at the ends of the ranges.
func TestBoundsAgreeWithPostgreSQL(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, server.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `SET TimeZone = 'UTC'; SET DateStyle = 'ISO'`); err != nil {
		t.Fatal(err)
	}
	for typ, values := range map[keytext.Type][]string{
		keytext.Int2:        {"32767", "32768", "-32768", "-32769"},
		keytext.Int4:        {"2147483647", "2147483648", "-2147483648", "-2147483649"},
		keytext.Int8:        {"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"},
		keytext.OID:         {"4294967295", "4294967296", "-1", "-2147483648", "-2147483649"},
		keytext.Date:        {"5874897-12-31", "5874898-01-01", "4714-11-24 BC", "4714-11-23 BC", "1900-02-29", "2000-02-29", "0001-02-29 BC"},
		keytext.Timestamp:   {"294276-12-31 23:59:59.999999", "294277-01-01 00:00:00", "4714-11-24 00:00:00 BC", "4714-11-23 23:59:59 BC"},
		keytext.Timestamptz: {"294277-01-01 00:30:00+01", "294276-12-31 23:30:00-01", "4714-11-24 00:30:00+01 BC", "4714-11-24 00:00:00+00 BC"},
		keytext.Numeric:     {"1e131071", "1e131072", "1e-16383", "1e-16384"},
	} {
		for _, value := range values {
			var text string
			refused := conn.QueryRow(ctx, `SELECT ($1::text)::`+string(typ)+`::text`, value).Scan(&text)
			canonical, err := keytext.Canonical(typ, value)
			if (refused == nil) != (err == nil) {
				t.Errorf("%s %s: PostgreSQL says %v, Canonical says %v", typ, value, refused, err)
				continue
			}
			if err != nil {
				continue
			}
			if logged, err := keytext.AppendCanonicalLog(nil, typ, []byte(text)); err != nil || string(logged) != canonical {
				t.Errorf("%s %s: log %q gives %q, %v, want %q", typ, value, text, logged, err, canonical)
			}
		}
	}
}
