package transit

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 30 * time.Second

// The secrets of the test. None of them may be seen in a log.
const databasePassword, redisPassword, token = "pg-s3cret", "redis-s3cret", "t0ken-s3cret"

// world is a PostgreSQL, a Redis and a gateway that speak nothing but TLS with freshet.
type world struct {
	t        *testing.T
	trusted  *authority
	stranger *authority
	pg       *pgtest.Server
	admin    string // the superuser's address, without TLS
	database string
	redis    *redistest.Server
	gateway  pair
	listen   string
	dir      string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, trusted: newAuthority(t, "an authority"), stranger: newAuthority(t, "another authority"),
		pg: pgtest.Start(t, pgtest.Options{}), redis: redistest.StartTLS(t), dir: t.TempDir(),
	}
	w.admin = w.pg.Database(t)
	w.database = w.pg.Ask(t, w.admin, "SELECT current_database()::text")
	w.secure()
	w.pg.Exec(t, w.admin,
		`CREATE ROLE freshet_daemon LOGIN SUPERUSER`, `CREATE ROLE freshet_gateway LOGIN PASSWORD '`+databasePassword+`'`,
		`CREATE TABLE products (id int8 PRIMARY KEY, price int8)`, `INSERT INTO products VALUES (1, 10)`,
		`GRANT SELECT ON products TO freshet_gateway`)
	w.redis.Do(t, "ACL", "SETUSER", "freshet", "on", ">"+redisPassword, "~f:*", "+@all")
	w.gateway = w.trusted.sign("gateway", "the gateway")
	port, err := localserver.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	w.listen = fmt.Sprintf("127.0.0.1:%d", port)
	return w
}

// secure has PostgreSQL speak TLS, and let everybody but its superuser in by it only: the daemon by its certificate, the gateway
// by its password.
func (w *world) secure() {
	w.t.Helper()
	data := filepath.Join(w.pg.Dir, "data")
	owner, err := os.Stat(data)
	if err != nil {
		w.t.Fatal(err)
	}
	own := w.trusted.sign("postgres", "the database")
	give := func(name string, text []byte) {
		w.t.Helper()
		path := filepath.Join(data, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			w.t.Fatal(err)
		}
		if is, ok := owner.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			if err := os.Chown(path, int(is.Uid), int(is.Gid)); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	for name, file := range map[string]string{"server.crt": own.Cert, "server.key": own.Key, "root.crt": w.trusted.Root} {
		text, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		give(name, text)
	}
	give("pg_hba.conf", []byte(`host all postgres 127.0.0.1/32 trust
hostssl all freshet_daemon 127.0.0.1/32 cert
hostssl all freshet_gateway 127.0.0.1/32 scram-sha-256
`))
	w.pg.Exec(w.t, w.admin, `ALTER SYSTEM SET ssl_ca_file = 'root.crt'`, `ALTER SYSTEM SET ssl = on`, `SELECT pg_reload_conf()`)
	testkit.Eventually(w.t, patience, func() error {
		if on := w.pg.Ask(w.t, w.admin, `SHOW ssl`); on != "on" {
			return fmt.Errorf("ssl is %s", on)
		}
		return nil
	})
}

// address is that of the database for a role, with what TLS is to be.
func (w *world) address(user *url.Userinfo, root string, more ...string) string {
	query := url.Values{"sslmode": {"verify-full"}, "sslrootcert": {root}}
	for i := 0; i < len(more); i += 2 {
		query.Set(more[i], more[i+1])
	}
	u := url.URL{Scheme: "postgres", User: user, Host: fmt.Sprintf("127.0.0.1:%d", w.pg.Port), Path: "/" + w.database, RawQuery: query.Encode()}
	return u.String()
}

func (w *world) reader(root string, more ...string) string {
	return w.address(url.UserPassword("freshet_gateway", databasePassword), root, more...)
}

// file writes a configuration with the given addresses.
func (w *world) file(name, load, log string) string {
	w.t.Helper()
	redis, err := url.Parse(w.redis.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	redis.User = url.UserPassword("freshet", redisPassword)
	path := filepath.Join(w.dir, name)
	text := fmt.Sprintf("namespace: transit\ndatabase: {url: %q}\nsource: {postgres: {url: %q}}\nregions: [{name: local, redis: {url: %q}}]\n"+
		"listen: %s\nauth: {token: %s}\ntls: {cert_file: %q, key_file: %q}\n"+
		"entries:\n  product: {key: 'product:{id}', query: 'SELECT id, price FROM products WHERE id = @id'}\n",
		load, log, redis, w.listen, token, w.gateway.Cert, w.gateway.Key)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// get reads through the gateway, over TLS.
func (w *world) get(trust *authority, path string) (code int, body string, shown *tls.ConnectionState, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+w.listen+path, http.NoBody)
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trust.pool(), MinVersion: tls.VersionTLS12}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(text)), resp.TLS, err
}

func (w *world) serves(want string) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		code, body, _, err := w.get(w.trusted, "/v1/entries/product/1")
		if err == nil && (code != http.StatusOK || body != want) {
			err = fmt.Errorf("%d %s, want %s", code, body, want)
		}
		return err
	})
}

// freshet runs a command.
func (w *world) freshet(args ...string) (out, complaint string, code int) {
	w.t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(w.t.Context(), servetest.Binary(w.t), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			w.t.Fatal(err)
		}
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// TestEverythingOverTLS: daemon, gateway, commands and library reach their servers by TLS with certificates and users, and
// nobody reaches the gateway otherwise.
func TestEverythingOverTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := w.trusted.sign("daemon", "freshet_daemon")
	file := w.file("freshet.yaml", w.reader(w.trusted.Root),
		w.address(url.User("freshet_daemon"), w.trusted.Root, "sslcert", client.Cert, "sslkey", client.Key))
	d := servetest.Start(t, "over TLS", file)
	testkit.Eventually(t, patience, func() error {
		code, body, _, err := w.get(w.trusted, "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	w.serves(`{"id":1,"price":10}`)
	w.pg.Exec(t, w.admin, `UPDATE products SET price = 11`)
	w.serves(`{"id":1,"price":11}`)

	// What the database says of its connections.
	testkit.Eventually(t, patience, func() error {
		got := w.pg.Ask(t, w.admin, `SELECT string_agg(DISTINCT usename || ' ' || ssl || ' ' || coalesce(client_dn, '-'), ', ' ORDER BY usename || ' ' || ssl || ' ' || coalesce(client_dn, '-'))
			FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename LIKE 'freshet%'`)
		if want := "freshet_daemon true /CN=freshet_daemon, freshet_gateway true -"; got != want {
			return fmt.Errorf("connections: %s, want %s", got, want)
		}
		return nil
	})
	if n := w.pg.Ask(t, w.admin, `SELECT count(*)::text FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl`); n != "1" {
		t.Errorf("%s walsenders speak TLS", n)
	}

	// The commands of the same file, and a library.
	out, complaint, code := w.freshet("status", "--config", file, "--json")
	var st struct {
		Phase string `json:"phase"`
	}
	if err := json.Unmarshal([]byte(out), &st); code != 0 || err != nil || st.Phase != "streaming" {
		t.Errorf("status = %d %s %s", code, out, complaint)
	}
	if out, complaint, code := w.freshet("invalidate", "product", "1", "--config", file); code != 0 || !strings.Contains(out, "applied  yes") {
		t.Errorf("invalidate = %d %s %s", code, out, complaint)
	}
	cache, err := freshet.Open(t.Context(), freshet.Options{Config: file})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry[int64, struct{ Price int64 }](cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := products.Get(t.Context(), 1); err != nil || p.Price != 11 {
		t.Errorf("Get() = %+v, %v", p, err)
	}

	w.gatewayIsGuarded(d)
	if text := d.Log() + out + complaint; strings.Contains(text, databasePassword) || strings.Contains(text, redisPassword) || strings.Contains(text, token) {
		t.Errorf("a secret is in:\n%s", text)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// gatewayIsGuarded: nobody reads it who speaks no TLS or has no token, nobody trusts it whose authority is another one, and it
// shows a certificate that was renewed; one that cannot be read changes nothing.
func (w *world) gatewayIsGuarded(d *servetest.Daemon) {
	w.t.Helper()
	if code, _, body, err := d.Get(w.t.Context(), "/v1/entries/product/1"); err == nil && (code != http.StatusBadRequest || strings.Contains(string(body), "price")) {
		w.t.Errorf("without TLS: %d %s", code, body)
	}
	if _, _, _, err := w.get(w.stranger, "/livez"); err == nil {
		w.t.Error("a client of another authority trusts the gateway")
	}
	for path, want := range map[string]int{"/livez": 200, "/v1/status": 401, "/v1/entries/product/1": 401} {
		req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+w.listen+path, http.NoBody)
		if err != nil {
			w.t.Fatal(err)
		}
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: w.trusted.pool(), MinVersion: tls.VersionTLS12}}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			w.t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			w.t.Errorf("%s without the token = %d, want %d", path, resp.StatusCode, want)
		}
	}
	name := func() string {
		_, _, shown, err := w.get(w.trusted, "/livez")
		if err != nil {
			w.t.Fatal(err)
		}
		return shown.PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "the gateway" {
		w.t.Errorf("it shows %q", got)
	}
	w.trusted.sign("gateway", "the renewed gateway")
	if got := name(); got != "the renewed gateway" {
		w.t.Errorf("after it was renewed it shows %q", got)
	}
	if err := os.WriteFile(w.gateway.Key, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if got := name(); got != "the renewed gateway" {
		w.t.Errorf("with a key that cannot be read it shows %q", got)
	}
}

// TestWrongCertificates: a server or a client that cannot show who it is gets nothing, and the commands say why.
func TestWrongCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client, other := w.trusted.sign("daemon", "freshet_daemon"), w.stranger.sign("daemon", "freshet_daemon")
	log := w.address(url.User("freshet_daemon"), w.trusted.Root, "sslcert", client.Cert, "sslkey", client.Key)
	for name, tt := range map[string]struct{ load, log, says string }{
		"a database of another authority":  {w.reader(w.stranger.Root), log, "certificate signed by unknown authority"},
		"a database of another name":       {strings.Replace(w.reader(w.trusted.Root), "127.0.0.1", "localhost", 1), log, "certificate"},
		"no TLS":                           {w.reader(w.trusted.Root, "sslmode", "disable"), log, "no pg_hba.conf entry"},
		"a wrong password":                 {strings.Replace(w.reader(w.trusted.Root), databasePassword, "wrong", 1), log, "password authentication failed"},
		"no certificate of the client":     {w.reader(w.trusted.Root), w.address(url.User("freshet_daemon"), w.trusted.Root), "certificate"},
		"a certificate of another client":  {w.reader(w.trusted.Root), w.address(url.User("freshet_daemon"), w.trusted.Root, "sslcert", w.trusted.sign("x", "somebody").Cert, "sslkey", filepath.Join(w.trusted.dir, "x.key")), "certificate authentication failed"},
		"a client of another authority":    {w.reader(w.trusted.Root), w.address(url.User("freshet_daemon"), w.trusted.Root, "sslcert", other.Cert, "sslkey", other.Key), "valid client certificate"},
		"a certificate that is not there":  {w.reader(w.trusted.Root), w.address(url.User("freshet_daemon"), w.trusted.Root, "sslcert", "none.pem", "sslkey", "none.key"), "none.pem"},
		"an authority that is not to read": {w.reader("none.pem"), log, "none.pem"},
	} {
		out, complaint, code := w.freshet("check", "--config", w.file("wrong.yaml", tt.load, tt.log))
		if code == 0 || !strings.Contains(out+complaint, tt.says) {
			t.Errorf("%s: check = %d\n%s\n%s", name, code, out, complaint)
		}
		if strings.Contains(out+complaint, databasePassword) {
			t.Errorf("%s: the password is in\n%s\n%s", name, out, complaint)
		}
	}
	w.gateway.Key = w.stranger.sign("elsewhere", "elsewhere").Key
	if _, complaint, code := w.freshet("serve", "--config", w.file("wrong.yaml", w.reader(w.trusted.Root), log)); code == 0 || !strings.Contains(complaint, "private key does not match") {
		t.Errorf("a key of another certificate: serve = %d\n%s", code, complaint)
	}
}
