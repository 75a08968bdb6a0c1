// Package pgurl reads the address of a PostgreSQL database for connections that freshet makes one by one. The pool for
// loads reads its own.
package pgurl

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const connectTimeout = 15 * time.Second

// Parse reads an address, as far as it is none of a pool's: an application's own has perhaps settings for its pool, which
// the server does not know.
func Parse(url string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read the database's URL: %w", err) // pgconn hides passwords
	}
	for name := range config.RuntimeParams {
		if strings.HasPrefix(name, "pool_") {
			delete(config.RuntimeParams, name)
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	return config, nil
}

// Session reads an address for a session that goes to the server itself and is the daemon's own: whatever the address, the
// role or the database sets, values have the text that they have everywhere, writing is possible, and nothing ends it
// while it waits or is idle. Settings come on top.
func Session(url string, settings map[string]string) (*pgx.ConnConfig, error) {
	config, err := Parse(url)
	if err != nil {
		return nil, err
	}
	maps.Copy(config.RuntimeParams, map[string]string{
		"application_name":                    ApplicationName,
		"client_encoding":                     "UTF8",
		"DateStyle":                           "ISO",
		"IntervalStyle":                       "postgres",
		"TimeZone":                            "UTC",
		"extra_float_digits":                  "3",
		"bytea_output":                        "hex",
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		"idle_in_transaction_session_timeout": "60s",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
	})
	maps.Copy(config.RuntimeParams, settings)
	config.AfterConnect = unlimited
	return config, nil
}

// ApplicationName is what servers know freshet's sessions by.
const ApplicationName = "freshet"

// unlimited takes limits away that not all servers have, which refuse a session that begins with one they do not know.
func unlimited(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout) // the driver's own bound ends before this
	defer cancel()
	const query = `
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
 WHERE name IN ('idle_session_timeout', 'transaction_timeout') AND setting <> '0'`
	if _, err := conn.Exec(ctx, query).ReadAll(); err != nil {
		return fmt.Errorf("take the session's time limits away: %w", err)
	}
	return nil
}
