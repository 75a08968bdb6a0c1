package cli

import (
	"context"
	"fmt"

	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
)

// judgeDatabase finds a namespace that is kept for another database of the same cluster. What else tells databases apart is the same
// in both. A store that does not answer, or has no roster yet, says nothing about it.
func (r *checked) judgeDatabase(ctx context.Context, store *redisstore.Store) {
	if r.Postgres == nil {
		return
	}
	text, found, err := store.Roster(ctx)
	if err != nil || !found {
		return
	}
	roster, err := rule.ParseRoster(text)
	here := rule.Database{OID: r.Postgres.oid, Name: r.Postgres.Database}
	if err != nil || roster.Database == nil || !roster.Database.Other(here) {
		return
	}
	r.problem("redis", fmt.Sprintf("what is cached under the namespace is of database %v, and source.postgres.url leads to %v of the same cluster", roster.Database, here),
		"readers of one database would be given rows of the other: those whose database.url is not the daemon's pass over the cache",
		"name the daemon's database in the URLs, or give each database a namespace of its own")
}
