package rule

import (
	"fmt"
	"strings"

	"github.com/freshet/freshet/internal/keytext"
)

// MaxBatch is how many keys one statement loads at most: beyond a few hundred a statement gains nothing more, holds its
// snapshot for longer, and has more keys to begin anew with when one of them fails.
const MaxBatch = 200

// BatchName is what the batch forms of queries call their keys.
const BatchName = "freshet_k"

// Batch is the form in which one statement loads many keys: the entry's query is run once for each, in a LATERAL subquery, with
// the key's own columns in the place of the parameters. What is made of the rows (LIMIT, aggregates, windows) then is made for
// each key, as it is when the keys are loaded one by one.
type Batch struct {
	// SQL is the entry's, with freshet_k.p1, freshet_k.p2 in the place of $1, $2.
	SQL string `json:"sql"`
	// Tags are the queries of the rules of the class TAG, in their order, likewise.
	Tags []string `json:"tags,omitempty"`
	// Types are those of the columns, as SQL spells them: of the parameters, with text for an array, which the query then casts.
	Types []string `json:"types"`
}

// BatchColumn is what stands for a parameter, counted from 1.
func BatchColumn(n int) string { return fmt.Sprintf("%s.p%d", BatchName, n) }

// Keys are the rows of the keys, for FROM: the n-th parameter is the array of the keys' n-th arguments. They have the columns
// p1, p2 and ord, which counts from 1.
func (b *Batch) Keys() string {
	arrays, columns := make([]string, len(b.Types)), make([]string, len(b.Types))
	for i, t := range b.Types {
		arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, t)
		columns[i] = fmt.Sprintf("p%d", i+1)
	}
	return "ROWS FROM (pg_catalog.unnest(" + strings.Join(arrays, "), pg_catalog.unnest(") + ")) WITH ORDINALITY AS " +
		BatchName + " (" + strings.Join(columns, ", ") + ", ord)"
}

// From joins to each key what its value is: freshet_r.j, as loads of one key make it. Without a row it is NULL; where there may
// be one row and are several, the key has two.
func (b *Batch) From(result Result) string {
	if result == Many {
		return b.Keys() + " CROSS JOIN LATERAL (SELECT " + List("pg_catalog.row_to_json(freshet_q)") + " AS j FROM (" + b.SQL +
			"\n) freshet_q) freshet_r"
	}
	return b.Keys() + " LEFT JOIN LATERAL (SELECT pg_catalog.row_to_json(freshet_q)::text AS j FROM (" + b.SQL +
		"\n) freshet_q LIMIT 2) freshet_r ON true"
}

// List makes an array of the rows' objects.
func List(object string) string {
	return "coalesce('[' || pg_catalog.string_agg(" + object + "::text, ',') || ']', '[]')"
}

// TextOfArray reports parameters whose arguments a batch passes as texts: an array of arrays has no elements of its own.
func TextOfArray(t keytext.Type) bool {
	_, ok := t.Element()
	return ok
}
