package pgcatalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/schema"
)

// Functions are what functions of users are made of now: by name a digest, the one that the catalog has of them. They are asked
// for by names without schemas.
func Functions(ctx context.Context, conn *pgx.Conn, names []string) (map[schema.Name]string, error) {
	if len(names) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	found, err := readFunctions(ctx, conn, names)
	if err != nil {
		return nil, fmt.Errorf("look at functions: %w", err)
	}
	made := make(map[schema.Name]string, len(found))
	for name, f := range found {
		made[name] = f.Definition
	}
	return made, nil
}

// rowsOf is a connection or a transaction.
type rowsOf interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readFunctions reads functions of users by their names without schemas, or all of them.
func readFunctions(ctx context.Context, from rowsOf, names []string) (map[schema.Name]*schema.Function, error) {
	rows, err := from.Query(ctx, functionsQuery, names)
	if err != nil {
		return nil, err
	}
	functions := map[schema.Name]*schema.Function{}
	var f schema.Function
	var volatility string
	_, err = pgx.ForEachRow(rows, []any{&f.Schema, &f.Name.Name, &volatility, &f.Definition}, func() error {
		made := f
		made.Volatility = volatility[0]
		functions[made.Name] = &made
		return nil
	})
	return functions, err
}
