package freshet_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// TestReplicas loads from a hot standby, which the file names or the application has a pool of.
func TestReplicas(t *testing.T) {
	t.Parallel()
	s := published(t)
	standby, err := localserver.StartStandby(t.Context(), servers.postgres, localserver.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	config, err := pgx.ParseConfig(s.url)
	if err != nil {
		t.Fatal(err)
	}
	there := standby.URL(config.Database)
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "freshet.yaml")
	with := strings.Replace(string(text), fmt.Sprintf("{url: %q}", s.url), fmt.Sprintf("{url: %q, replicas: [%q]}", s.url, there), 1)
	if err := os.WriteFile(named, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := func(url string) *pgxpool.Pool {
		t.Helper()
		p, err := pgxpool.New(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	primary := pool(s.url)
	for i, options := range []freshet.Options{
		{Config: named},
		{Config: s.file, Database: primary, Replicas: []*pgxpool.Pool{pool(there)}},
	} {
		cache := open(t, options)
		products := entry[int64, Product](t, cache, "product")
		id := int64(1000 * (i + 1))
		testkit.Eventually(t, 30*time.Second, func() error {
			id++ // a key that was not read yet
			if _, err := primary.Exec(t.Context(), "UPDATE products SET name = name WHERE id = 2"); err != nil {
				return err
			}
			if err := s.answer(t.Context()); err != nil {
				return err
			}
			if _, err := products.Get(t.Context(), id); !errors.Is(err, freshet.ErrNotFound) {
				t.Errorf("Get(%d) = %v, want ErrNotFound", id, err)
			}
			if stats := cache.Stats(); stats.Replicas["used"] == 0 {
				return fmt.Errorf("the standby is not used: %v", stats.Replicas)
			}
			return nil
		})
	}
	// A standby writes no log: what is invalidated by hand has to be said to the primary.
	cache := open(t, freshet.Options{Config: s.file, Database: pool(there)})
	token, err := cache.Invalidate(t.Context(), cache.Key("product", 1))
	if !errors.Is(err, freshet.ErrReadOnly) || !token.IsZero() {
		t.Errorf("Invalidate on a standby: %v, %v", token, err)
	}
}
