package writer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

const patience = 30 * time.Second

// bank is tables that no rule covers, entries over them that code loads, and a daemon.
type bank struct {
	t         *testing.T
	url       string
	redis     string // its address
	namespace string
	config    string
	pool      *pgxpool.Pool
	daemon    *servetest.Daemon
	cache     *freshet.Cache
	rates     *freshet.Typed[string, int]
}

// withRate is another file for the same daemon, with an option for the entry rate.
func (b *bank) withRate(option string) (file string) {
	b.t.Helper()
	text, err := os.ReadFile(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	const rate = `rate: {key: "rate:{currency}", depends_on: []`
	other := strings.Replace(string(text), rate, rate+option, 1)
	if other == string(text) && option != "" {
		b.t.Fatal("the file has no such entry")
	}
	file = filepath.Join(b.t.TempDir(), "other.yaml")
	if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return file
}

func newBank(t *testing.T) *bank {
	t.Helper()
	pg := pgtest.Shared(t)
	b := &bank{t: t, url: pg.Database(t), config: filepath.Join(t.TempDir(), "freshet.yaml")}
	pg.Exec(t, b.url, `CREATE TABLE rates (currency text PRIMARY KEY, value int NOT NULL)`, `INSERT INTO rates VALUES ('marker', 0)`,
		`CREATE TABLE lines (order_id int, number int, sku text)`)
	b.namespace, b.redis = redistest.Namespace(t), redistest.Shared(t).Addr
	text := fmt.Sprintf(`namespace: %s
database: {url: %q}
source: {postgres: {slot: %q}}
regions: [{name: local, redis: {url: %q}}]
listen: 127.0.0.1:0
defaults: {load_timeout: 20s} # a machine that stands still is no database that does not answer
entries:
  rate: {key: "rate:{currency}", depends_on: []}
  line: {key: "order:{order_id}/line:{number}", depends_on: []}
  profile: {key: "profile:{id}", depends_on: [], tags: by_hand, load_timeout: 1m} # 1000 of them are loaded at a time
`, b.namespace, b.url, fmt.Sprintf("w_%d", time.Now().UnixNano()), redistest.Shared(t).URL)
	if err := os.WriteFile(b.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.daemon = servetest.Start(t, "daemon", b.config)
	testkit.Eventually(t, patience, func() error { return b.daemon.Live(t.Context()) })
	var err error
	if b.pool, err = pgxpool.New(t.Context(), b.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.pool.Close)
	if b.cache, err = freshet.Open(t.Context(), freshet.Options{Config: b.config, Database: b.pool}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.cache.Close)
	if b.rates, err = openRates(b.cache, ""); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bank) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.pool.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bank) get(currency string) int {
	b.t.Helper()
	value, err := b.rates.Get(b.t.Context(), currency)
	if err != nil {
		b.t.Fatal(err)
	}
	return value
}

// cached reads until a read is a hit, and returns its value.
func (b *bank) cached(currency string) (value int) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		before := b.cache.Stats().Hits
		value = b.get(currency)
		if b.cache.Stats().Hits == before {
			return errors.New("no hit")
		}
		return nil
	})
	return value
}

// settled waits until the daemon has applied everything that was committed before.
func (b *bank) settled() {
	b.t.Helper()
	before := b.cached("marker")
	tx, err := b.pool.Begin(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := tx.Exec(b.t.Context(), `UPDATE rates SET value = value + 1 WHERE currency = 'marker'`); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.cache.Commit(b.t.Context(), tx, b.rates.Key("marker")); err != nil {
		b.t.Fatal(err)
	}
	testkit.Eventually(b.t, patience, func() error {
		if b.get("marker") == before {
			return errors.New("the marker is still old")
		}
		return nil
	})
}

// TestWriterKilled: wherever the writer is killed, the cache ends up with what the database has, and nothing is held.
func TestWriterKilled(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	const old = 1
	value := old
	for _, tt := range []struct {
		stop              point
		strict, committed bool
	}{
		{begun, false, false},
		{declared, false, false},
		{declared, true, false},
		{committed, false, true},
		{committed, true, true},
		{refreshing, false, true},
		{finished, false, true},
	} {
		currency := fmt.Sprint(tt.stop, tt.strict)
		b.exec(`INSERT INTO rates VALUES ($1, $2)`, currency, old)
		if got := b.cached(currency); got != old {
			t.Fatalf("%s: %d is cached", tt.stop, got)
		}
		value++
		killAt(t, job{Config: b.config, Database: b.url, Currency: currency, Value: value, Stop: tt.stop, Strict: tt.strict})
		want := old
		if tt.committed {
			want = value
		}
		b.settled()
		before := b.cache.Stats().Loads
		if got := b.get(currency); got != want {
			t.Errorf("%s: %d is read, want %d", tt.stop, got, want)
		}
		if loads := b.cache.Stats().Loads - before; !tt.committed && !tt.strict && loads != 0 {
			t.Errorf("%s: nothing was committed, and yet the key was invalidated", tt.stop)
		}
		if got := b.cached(currency); got != want {
			t.Errorf("%s: %d is cached, want %d", tt.stop, got, want)
		}
		// Nothing of the killed writer is in the way of the next.
		testkit.Eventually(t, patience, func() error {
			_, err := b.pool.Exec(t.Context(), `SELECT FROM rates WHERE currency = $1 FOR UPDATE NOWAIT`, currency)
			return err
		})
	}
}

// TestWriterKilledDuringCommit: whatever became of the transaction, the cache has it.
func TestWriterKilledDuringCommit(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	var outcomes [3]int
	for i := range 12 {
		currency := fmt.Sprint("d", i)
		b.exec(`INSERT INTO rates VALUES ($1, 1)`, currency)
		b.cached(currency)
		killAt(t, job{Config: b.config, Database: b.url, Currency: currency, Value: 2, Stop: committing, Strict: i%2 == 0})
		var want int // once the transaction is over
		if err := b.pool.QueryRow(t.Context(), `SELECT value FROM rates WHERE currency = $1 FOR UPDATE`, currency).Scan(&want); err != nil {
			t.Fatal(err)
		}
		outcomes[want]++
		b.settled()
		if got := b.get(currency); got != want {
			t.Errorf("%d is read, want %d", got, want)
		}
		if got := b.cached(currency); got != want {
			t.Errorf("%d is cached, want %d", got, want)
		}
	}
	t.Logf("%d were rolled back, %d committed", outcomes[1], outcomes[2])
}

// TestWritersKilledAfterCommit: many writers are killed between their COMMIT and whatever would come after it. None
// leaves a stale value.
func TestWritersKilledAfterCommit(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	const writers = 10
	for i := range writers {
		currency := fmt.Sprint("c", i)
		b.exec(`INSERT INTO rates VALUES ($1, 1)`, currency)
		b.cached(currency)
		killAt(t, job{Config: b.config, Database: b.url, Currency: currency, Value: 2, Stop: committed})
	}
	b.settled()
	for i := range writers {
		if got := b.get(fmt.Sprint("c", i)); got != 2 {
			t.Errorf("writer %d leaves %d", i, got)
		}
	}
}

// TestNothingButIntents: a change without an intent is not noticed, as explain and check say of such an entry.
func TestNothingButIntents(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.exec(`INSERT INTO rates VALUES ('EUR', 1)`)
	b.cached("EUR")
	b.exec(`UPDATE rates SET value = 2 WHERE currency = 'EUR'`)
	b.settled()
	if got := b.get("EUR"); got != 1 {
		t.Errorf("%d is read: the change was noticed without an intent", got)
	}
	// In plain SQL, as any language can.
	b.exec(`SELECT pg_logical_emit_message(true, 'freshet',
		convert_to(json_build_object('v', 1, 'entry', 'rate', 'keys', json_build_array('EUR'))::text, 'UTF8'))`)
	testkit.Eventually(t, patience, func() error {
		if got := b.get("EUR"); got != 2 {
			return fmt.Errorf("%d is read", got)
		}
		return nil
	})
}
