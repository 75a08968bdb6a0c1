package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// compiler plans the configured entries. What is refused when nothing was ever cached stops the daemon, since someone is
// looking; what is refused later, because the schema changed, takes that entry out of the cache, and its readers go to
// the database: the others need the daemon.
type compiler struct {
	config func() *config.Config // as it is now
	logger *slog.Logger
}

func (c *compiler) compile(ctx context.Context, conn *pgx.Conn, retained []rule.Declared, strict bool) (*pipeline.Compiled, error) {
	catalog, err := pgcatalog.Read(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	var (
		result  pipeline.Compiled
		refused []error
	)
	result.Keys = map[schema.Name][]string{}
	for name, t := range catalog.Tables {
		if len(t.PrimaryKey) > 0 {
			result.Keys[name] = t.PrimaryKey
		}
	}
	own := map[string]bool{}
	file := c.config()
	for _, declared := range file.Declared() {
		own[declared.Digest()] = true
		entry, err := one(ctx, conn, catalog, declared)
		if err != nil {
			if !lasting(err) {
				return nil, err
			}
			refused = append(refused, err)
			if result.Refused == nil {
				result.Refused, result.Templates = map[string]string{}, map[string]string{}
			}
			result.Refused[declared.Name], result.Templates[declared.Name] = err.Error(), declared.Key
			result.Mentioned = append(result.Mentioned, mentioned(catalog, &declared)...)
			continue
		}
		e := file.Entries[declared.Name]
		if v := e.Vain(entry.Rules); v != nil {
			c.logger.WarnContext(ctx, "an entry says what never has any effect", slog.String("entry", declared.Name), slog.String("what", v.What()),
				slog.String("why", v.Why()), slog.String("do", v.Do()))
		}
		entry.Keep = max(e.TTL, e.NegativeTTL).Milliseconds()
		result.Entries = append(result.Entries, entry)
		for _, r := range entry.Rules {
			name := schema.Name{Schema: r.Schema, Name: r.Table}
			if !slices.Contains(result.Tables, name) {
				result.Tables = append(result.Tables, name)
			}
		}
	}
	if len(refused) > 0 && strict {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrRefused, errors.Join(refused...))
	}
	for _, err := range refused {
		c.logger.ErrorContext(ctx, "entry is out of the cache: its query cannot be planned", slog.Any("err", err))
	}
	retained = slices.DeleteFunc(retained, func(d rule.Declared) bool { return own[d.Digest()] })
	result.Called, result.Functions = called(catalog, slices.Concat(file.Declared(), retained))
	result.Retained, err = c.retained(ctx, conn, catalog, retained)
	return &result, err
}

// mentioned are the tables and views whose names occur in an entry that is refused, and in the views among them. What else the
// words may mean does not matter: they only say at what to look.
func mentioned(catalog *schema.Catalog, d *rule.Declared) (names []schema.Name) {
	texts := []string{d.Query}
	for _, dependency := range d.DependsOn {
		texts = append(texts, dependency.Table)
	}
	found := map[schema.Name]bool{}
	for len(texts) > 0 {
		text := strings.ToLower(texts[0])
		texts = texts[1:]
		for name, t := range catalog.Tables {
			if !found[name] && strings.Contains(text, strings.ToLower(name.Name)) {
				found[name] = true
				names = append(names, name)
				texts = append(texts, t.Definition)
			}
		}
	}
	return names
}

// called are the functions that entries may call, by their names without schemas, and what is there of these names.
func called(catalog *schema.Catalog, declared []rule.Declared) (names []string, made map[schema.Name]string) {
	for i := range declared {
		for name := range declared[i].Functions {
			for _, name := range []string{name, name[strings.LastIndexByte(name, '.')+1:]} { // a dot may be part of the name
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	made = map[schema.Name]string{}
	for name, f := range catalog.Functions {
		if slices.Contains(names, name.Name) {
			made[name] = f.Definition
		}
	}
	return names, made
}

// retained plans versions that the configuration does not declare. Nobody is asked to mend what stands in no file: one
// that the schema has left behind goes.
func (c *compiler) retained(
	ctx context.Context, conn *pgx.Conn, catalog *schema.Catalog, versions []rule.Declared,
) (planned []*rule.Entry, err error) {
	for _, declared := range versions {
		entry, err := one(ctx, conn, catalog, declared)
		switch {
		case err != nil && !lasting(err):
			return nil, err
		case err != nil:
			c.logger.ErrorContext(ctx, "an earlier version of an entry is given up: its query cannot be planned any more; "+
				"libraries that use it read from the database", slog.String("entry", declared.Name),
				slog.String("definition", declared.Digest()), slog.Any("err", err))
		default:
			planned = append(planned, entry)
		}
	}
	return planned, nil
}

// one plans one entry, and has PostgreSQL agree.
func one(ctx context.Context, conn *pgx.Conn, catalog *schema.Catalog, declared rule.Declared) (*rule.Entry, error) {
	compiled, err := plan.Compile(catalog, declared, plan.Served()...)
	if err != nil {
		return nil, err
	}
	if err := pgcatalog.Verify(ctx, conn, compiled.Entry, compiled.Ignored...); err != nil {
		return nil, err
	}
	compiled.Entry.Declared = &declared
	return compiled.Entry, nil
}

// lasting reports that planning would fail again: the planner or PostgreSQL refuses the query itself, and it is not the
// connection or the server that failed.
func lasting(err error) bool {
	var (
		refused   *plan.Error
		disagrees *pgcatalog.DisagreementError
		server    *pgconn.PgError
	)
	if errors.As(err, &refused) || errors.As(err, &disagrees) {
		return true
	}
	// Class 42 is a syntax error or a rule violation, 22 a bad constant.
	return errors.As(err, &server) && (strings.HasPrefix(server.Code, "42") || strings.HasPrefix(server.Code, "22"))
}
