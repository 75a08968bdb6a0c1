package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/plan"
)

// patience is how long a command waits for a server to answer.
const patience = 10 * time.Second

// connect opens one connection for a command. The caller closes it with closeConn.
func connect(ctx context.Context, what string, url config.URL) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, url.Reveal())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", what, err)
	}
	return conn, nil
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // what was asked has been answered
}

// planned is one entry of the file as the database has it.
type planned struct {
	name     string
	compiled *plan.Compiled
	err      error
}

// planEntries plans entries against the database; each has its own verdict.
func planEntries(ctx context.Context, conn *pgx.Conn, c *config.Config, only string) ([]planned, error) {
	catalog, err := pgcatalog.Read(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	var all []planned
	for _, declared := range c.Declared() {
		if only != "" && declared.Name != only {
			continue
		}
		p := planned{name: declared.Name}
		p.compiled, p.err = plan.Compile(catalog, declared)
		if p.err == nil {
			p.err = pgcatalog.Verify(ctx, conn, p.compiled.Entry, p.compiled.Ignored...)
		}
		if p.err != nil && conn.IsClosed() {
			return nil, p.err
		}
		p.err = atQuery(c, p.name, p.err)
		all = append(all, p)
	}
	return all, nil
}

// noSuchEntry refuses a name that the file does not declare.
func noSuchEntry(c *config.Config, name string) error {
	if _, ok := c.Entries[name]; ok {
		return nil
	}
	return &exitError{
		code: exitUsage, err: fmt.Errorf("the configuration declares no entry %q", name),
		try: "one of: " + join(c.Names()),
	}
}
