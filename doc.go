// Package freshet reads cached rows of PostgreSQL that stay fresh: the freshet daemon follows the database's log and
// removes from Redis what a commit has changed, and this package reads through Redis and fills it, under rules that
// keep a slow reader from storing a row that was changed meanwhile.
//
// Entries are declared in freshet.yaml, which daemon and application share:
//
//	cache, err := freshet.Open(ctx, freshet.Options{Config: "freshet.yaml", Database: pool})
//	products, err := freshet.Entry[int64, Product](cache, "product")
//	p, err := products.Get(ctx, 42) // freshet.ErrNotFound when there is no such row
//
// Where the cache cannot vouch for a value, because Redis is away, no daemon has run yet, or the daemon was given
// another version of the file, a read goes to the database and stores nothing. What is promised, and what proves it,
// is in GUARANTEES.md.
//
// Values are decoded from JSON that PostgreSQL built, with the names of the query's output columns. A value may be
// shared with other readers: do not change what it points to.
package freshet
