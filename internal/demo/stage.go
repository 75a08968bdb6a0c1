package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/redisstore"
)

const (
	namespace   = "shop" // as freshet.yaml.tmpl has it
	database    = "shop"
	productRows = 10000
	hotRows     = 100             // the rows that the background readers read
	plainTTL    = 5 * time.Second // of the cache-aside code in step b
	freshWithin = 5 * time.Second // how long a measurement waits for a fresh read
	stopWithin  = 15 * time.Second
	readyWithin = 30 * time.Second
)

//go:embed shop.sql
var shopSQL string

//go:embed freshet.yaml.tmpl
var configTemplate string

// stage is everything that the story needs: the servers, the daemon, and every way to look at them.
type stage struct {
	options Options
	dir     string
	begun   time.Time
	closing []func() error // in the order of opening

	postgres *localserver.Postgres
	redis    *localserver.Redis
	daemon   *child
	log      *os.File // the daemon's

	postgresVersion, redisVersion string

	pool    *pgxpool.Pool  // the library's, the plain code's and the judge's
	session *pgxpool.Pool  // the writer's: another session, which knows nothing of caches
	client  rueidis.Client // the plain code's and the judge's
	store   *redisstore.Store
	gateway *gateway
	library *library
	ledger  *ledger
}

// openStage starts everything; what was started is stopped again when it cannot.
func openStage(ctx context.Context, options Options) (*stage, error) {
	s := &stage{options: options, begun: time.Now(), ledger: newLedger()}
	for _, open := range []func(context.Context) error{
		s.openDir, s.openPostgres, s.openRedis, s.openShop, s.openDaemon, s.openClients,
	} {
		if err := open(ctx); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// close stops everything in the reverse order.
func (s *stage) close() error {
	var errs []error
	for _, closing := range slices.Backward(s.closing) {
		errs = append(errs, closing())
	}
	s.closing = nil
	return errors.Join(errs...)
}

func (s *stage) onClose(closing func() error) { s.closing = append(s.closing, closing) }

// say tells what is happening.
func (s *stage) say(format string, args ...any) {
	line := fmt.Sprintf("%5.1fs  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
	// A closed stderr is no reason to stop.
	_, _ = s.options.Stderr.Write([]byte(line))
}

func (s *stage) openDir(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "freshet-demo-")
	if err != nil {
		return fmt.Errorf("make demo directory: %w", err)
	}
	s.dir = dir
	if s.options.Keep {
		s.onClose(func() error { s.say("kept: %s", dir); return nil })
		return nil
	}
	remove, err := removeAtEnd(ctx, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	s.onClose(remove)
	return nil
}

func (s *stage) openPostgres(ctx context.Context) error {
	s.say("starting a private PostgreSQL")
	postgres, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{})
	if err != nil {
		return err
	}
	s.postgres = postgres
	s.onClose(func() error { return errors.Join(s.keepPostgres(context.WithoutCancel(ctx)), postgres.Close()) })
	return nil
}

func (s *stage) openRedis(ctx context.Context) error {
	s.say("starting a private Redis, without persistence")
	redis, err := localserver.StartRedis(ctx, localserver.RedisOptions{})
	if err != nil {
		return err
	}
	s.redis = redis
	s.onClose(func() error { return errors.Join(s.keepRedis(context.WithoutCancel(ctx)), redis.Close()) })
	return nil
}

// openShop makes the database and opens the pools on it.
func (s *stage) openShop(ctx context.Context) error {
	s.say("filling the shop: 10,000 products, 10,000 users with profiles, 8,000 addresses")
	admin, err := pgxpool.New(ctx, s.postgres.URL("postgres"))
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer admin.Close()
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return fmt.Errorf("make the shop's database: %w", err)
	}
	for _, pool := range []**pgxpool.Pool{&s.pool, &s.session} {
		opened, err := pgxpool.New(ctx, s.postgres.URL(database))
		if err != nil {
			return fmt.Errorf("open database: %w", err)
		}
		*pool = opened
		s.onClose(func() error { opened.Close(); return nil })
	}
	if _, err := s.pool.Exec(ctx, shopSQL); err != nil {
		return fmt.Errorf("fill the shop: %w", err)
	}
	if err := s.pool.QueryRow(ctx, "SHOW server_version").Scan(&s.postgresVersion); err != nil {
		return fmt.Errorf("ask PostgreSQL for its version: %w", err)
	}
	s.postgresVersion, _, _ = strings.Cut(s.postgresVersion, " ") // without the packager's words
	return s.learn(ctx)
}

// learn notes what the rows are before anybody writes.
func (s *stage) learn(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, `SELECT 'product:' || id, price::text FROM products
		UNION ALL SELECT 'user:' || u.id, coalesce(a.city, '') FROM users u LEFT JOIN addresses a ON a.user_id = u.id`)
	if err != nil {
		return fmt.Errorf("read the shop: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var row, value string
		if err := rows.Scan(&row, &value); err != nil {
			return fmt.Errorf("read the shop: %w", err)
		}
		s.ledger.know(row, value)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the shop: %w", err)
	}
	return nil
}

// openDaemon writes the configuration and starts freshet serve.
func (s *stage) openDaemon(ctx context.Context) error {
	listen := s.options.Listen
	if listen == "" {
		port, err := localserver.FreePort()
		if err != nil {
			return err
		}
		listen = fmt.Sprintf("127.0.0.1:%d", port)
	}
	var text strings.Builder
	err := template.Must(template.New("freshet.yaml").Parse(configTemplate)).Execute(&text, struct{ Database, Redis, Listen string }{
		s.postgres.URL(database), s.redis.URL(), listen,
	})
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(s.configFile(), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open daemon's log: %w", err)
	}
	s.log = log
	s.onClose(log.Close)
	s.gateway = newGateway(listen)
	s.onClose(func() error { s.gateway.client.CloseIdleConnections(); return nil })
	s.say("starting the daemon: freshet serve --config %s", s.configFile())
	s.onClose(s.stopDaemon)
	if err := s.startDaemon(ctx); err != nil {
		return err
	}
	return s.daemonReady(ctx)
}

func (s *stage) configFile() string { return filepath.Join(s.dir, "freshet.yaml") }

func (s *stage) startDaemon(ctx context.Context) error {
	daemon, err := startChild(ctx, s.log, s.options.Executable, "serve", "--config", s.configFile())
	if err != nil {
		return err
	}
	s.daemon = daemon
	s.say("the daemon is process %d", daemon.pid())
	return nil
}

func (s *stage) stopDaemon() error {
	if s.daemon == nil || s.daemon.ended() {
		return nil
	}
	return s.daemon.stop(stopWithin)
}

// daemonReady waits until the daemon says that it is.
func (s *stage) daemonReady(ctx context.Context) error {
	err := until(ctx, readyWithin, 10*time.Millisecond, func(ctx context.Context) error {
		if s.daemon.ended() {
			return permanent(fmt.Errorf("the daemon has ended (%w)", s.daemon.err))
		}
		reply, err := s.gateway.get(ctx, "/readyz")
		if err == nil && reply.status != http.StatusOK {
			err = fmt.Errorf("readyz answers %d: %s", reply.status, reply.body)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the daemon: %w; its log ends with:\n%s", err, s.logTail())
	}
	return nil
}

func (s *stage) logTail() string {
	const tail = 2000
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-tail):])
}
