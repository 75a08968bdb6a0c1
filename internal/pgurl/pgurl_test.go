package pgurl_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/pgurl"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// An address with everything that a pool, a role or a database may set makes the session that was asked for, as a
// connection for queries and as one for replication.
func TestSession(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.Background()) }()
	for _, setting := range []string{
		`default_transaction_read_only = on`, `default_transaction_isolation = 'serializable'`, `statement_timeout = '1s'`,
		`lock_timeout = '1s'`, `idle_session_timeout = '1s'`, `idle_in_transaction_session_timeout = '1s'`, `DateStyle = 'German'`,
		`TimeZone = 'Asia/Tokyo'`, `bytea_output = 'escape'`,
	} {
		set := `DO $do$ BEGIN EXECUTE format($f$ALTER DATABASE %I SET ` + setting + `$f$, current_database()); END $do$`
		if _, err := admin.Exec(t.Context(), set); err != nil {
			t.Fatalf("%s: %v", setting, err)
		}
	}
	want := map[string]string{
		"application_name": "freshet", "default_transaction_read_only": "off", "default_transaction_isolation": "read committed",
		"statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0", "idle_in_transaction_session_timeout": "60000",
		"DateStyle": "ISO, MDY", "TimeZone": "UTC", "bytea_output": "hex", "search_path": "pg_catalog",
	}
	url += "&pool_max_conns=4&pool_max_conn_lifetime=1h&application_name=shop"
	for name, settings := range map[string]map[string]string{
		"queries": {"search_path": "pg_catalog"}, "replication": {"search_path": "pg_catalog", "replication": "database"},
	} {
		got := settingsOf(t, url, settings)
		for setting := range got {
			if _, asked := want[setting]; !asked {
				delete(got, setting)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the session's settings (-want +got):\n%s", name, diff)
		}
	}
}

// settingsOf are all settings of a session, as the server has them.
func settingsOf(t *testing.T, url string, settings map[string]string) map[string]string {
	t.Helper()
	config, err := pgurl.Session(url, settings)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgconn.ConnectConfig(t.Context(), &config.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	results, err := conn.Exec(t.Context(), `SELECT name, setting FROM pg_settings`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, row := range results[0].Rows {
		all[string(row[0])] = string(row[1])
	}
	return all
}
