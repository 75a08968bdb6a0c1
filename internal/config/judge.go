package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
)

// The bounds of what a file may say.
const (
	maxName        = 63 // bytes of a PostgreSQL name
	maxNamespace   = 128
	maxTTL         = 10 * 365 * 24 * time.Hour
	maxLoadTimeout = 10 * time.Minute
	maxJitter      = 90
)

// judge holds a complete Config against what this version can do.
type judge struct {
	c        *Config
	lenient  func(string) bool
	reported []*Error // what did not decode
	errs     []error
}

// judge reports everything that decoded and is still wrong. When something did not decode, it does not report what is
// missing: that may be an echo of a misspelled key.
func (c *Config) judge(lenient func(string) bool, reported []*Error) error {
	j := &judge{c: c, lenient: lenient, reported: reported}
	j.config()
	return errors.Join(j.errs...)
}

func (j *judge) fail(path, hint, format string, args ...any) {
	e := j.c.ErrorAt(path, path+": "+fmt.Sprintf(format, args...), hint)
	if len(j.reported) > 0 {
		_, present := j.c.places.at[path]
		echo := slices.ContainsFunc(j.reported, func(r *Error) bool { return r.Line == e.Line })
		if !present || echo {
			return
		}
	}
	j.errs = append(j.errs, e)
}

// used reports whether the value at path matters to who loads the file.
func (j *judge) used(path string) bool { return j.lenient == nil || !j.lenient(path) }

func (j *judge) config() {
	c := j.c
	if c.Namespace != "" && !validNamespace(c.Namespace) {
		j.fail("namespace", "use letters, digits, '_', '-', '.', '~' and '%'", "%q is not a namespace", c.places.shown("namespace", c.Namespace))
	}
	if j.used("database.url") {
		if c.Database.URL == "" {
			j.fail("database.url", "url: postgres://user@host:5432/name, or url: ${DATABASE_URL}", "the connection string is missing")
		} else {
			j.postgresURL("database.url", c.Database.URL)
		}
	}
	for i, replica := range c.Database.Replicas {
		switch path := fmt.Sprintf("database.replicas.%d", i); {
		case !j.used(path):
		case replica == "":
			j.fail(path, "replicas: [${REPLICA_URL}], or remove it", "the connection string is missing")
		default:
			j.postgresURL(path, replica)
		}
	}
	j.source()
	if j.used("regions") {
		j.regions()
	}
	j.listen()
	j.maxValue("defaults", c.Defaults.MaxValue)
	j.ttls("defaults", c.Defaults.TTL, c.Defaults.NegativeTTL, c.Defaults.LoadTimeout, c.Defaults.TTLJitter)
	if len(c.Entries) == 0 {
		j.fail("entries", "declare at least one", "there is no entry")
	}
	for _, name := range c.Names() {
		j.entry("entries."+name, name, c.Entries[name])
	}
}

func (j *judge) postgresURL(path string, u URL) {
	scheme, _, isURL := strings.Cut(string(u), "://")
	if isURL {
		parsed, err := url.Parse(string(u))
		if scheme != "postgres" && scheme != "postgresql" || err != nil || parsed.Host == "" && parsed.Query().Get("host") == "" && parsed.Path == "" {
			j.fail(path, "postgres://user@host:5432/name; special characters of a password are written %XX", "not a PostgreSQL connection string")
		}
		return
	}
	if !strings.Contains(string(u), "=") {
		j.fail(path, "postgres://user@host:5432/name", "not a PostgreSQL connection string")
	}
}

func (j *judge) source() {
	pg := j.c.Source.Postgres
	switch {
	case pg == nil && j.c.Source.Kafka == nil:
		if j.used("source") {
			j.fail("source", "source: {postgres: {}} follows the database's own log", "exactly one source is needed, and there is none")
		}
		return
	case pg != nil && j.c.Source.Kafka != nil:
		j.fail("source", "keep one of them", "exactly one source is needed, and there are two")
	case pg == nil:
		return
	}
	if j.used("source.postgres.url") && pg.URL != j.c.Database.URL {
		j.postgresURL("source.postgres.url", pg.URL)
	}
	if strings.Trim(pg.Slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(pg.Slot) > maxName {
		j.fail("source.postgres.slot", "use a-z, 0-9 and '_', at most 63", "%q is not a name that PostgreSQL allows for a slot", j.c.places.shown("source.postgres.slot", pg.Slot))
	}
	if len(pg.Publication) > maxName || strings.ContainsAny(pg.Publication, "\x00\n\r") {
		j.fail("source.postgres.publication", "at most 63 bytes", "%q is not a name that PostgreSQL allows", j.c.places.shown("source.postgres.publication", pg.Publication))
	}
}

func (j *judge) regions() {
	const least = Size(1 << 20)
	switch n := len(j.c.Regions); {
	case n == 0 && j.c.Memory.Size < least:
		j.fail("memory.size", "a size such as 256MiB", "%s is too little to keep anything in: at least 1MiB is needed", j.c.Memory.Size)
	case n > 0 && j.c.Memory.Size != 0:
		j.fail("memory", "remove memory, or regions", "there are regions, so the store is in Redis and none is in the daemon's own memory")
	case n > 1:
		j.fail("regions", "keep one", "not supported by this version: more than one region (here %d)", n)
	}
	for i, r := range j.c.Regions {
		path := fmt.Sprintf("regions.%d", i)
		if !validEntryName(r.Name) {
			j.fail(path+".name", "use a letter, then letters, digits, '_' and '-', at most 63", "%q is not a name for a region", j.c.places.shown(path+".name", r.Name))
		}
		if r.Redis.URL == "" {
			j.fail(path+".redis.url", "url: redis://127.0.0.1:6379", "the URL of Redis is missing")
		} else {
			j.redisURL(path+".redis", r.Redis)
		}
	}
}

func (j *judge) redisURL(path string, r Redis) {
	parsed, err := url.Parse(string(r.URL))
	if err != nil || !slices.Contains([]string{"redis", "rediss", "unix"}, parsed.Scheme) || parsed.Scheme != "unix" && parsed.Hostname() == "" {
		j.fail(path+".url", "redis://[user:password@]host:port[/db], rediss:// for TLS, or unix:///path; special characters of a password are written %XX", "not the URL of a Redis")
		return
	}
	query := parsed.Query()
	watched := query.Has("master_set")
	clustered := !watched && (query.Has("addr") || query.Has("cluster"))
	switch {
	case watched && (query.Get("master_set") == "" || parsed.Scheme == "unix"):
		j.fail(path+".url", "redis://sentinel1:26379?addr=sentinel2:26379&addr=sentinel3:26379&master_set=name", "master_set is the name of the master that the Sentinels of the URL watch")
	case query.Has("cluster") && (watched || query.Get("cluster") != "true"):
		j.fail(path+".url", "redis://node1:6379?cluster=true&addr=node2:6379, or without cluster when it is something else", "cluster=true says that the URL names nodes of a Redis Cluster")
	case clustered && (parsed.Scheme == "unix" || query.Has("db") || strings.Trim(parsed.Path, "/0") != ""):
		j.fail(path+".url", "redis://node1:6379?cluster=true&addr=node2:6379", "a Redis Cluster is reached by host and port, and has no other database than 0")
	case !watched && r.Sentinel != (Sentinel{}):
		j.fail(path+".sentinel", "add master_set=name to the URL of the Sentinels, or remove sentinel", "the URL names no Sentinels")
	case r.Sentinel.Username != "" && r.Sentinel.Password == "" && r.Sentinel.PasswordFile == "":
		j.fail(path+".sentinel.username", "add password or password_file", "the user has no password")
	}
}

func (j *judge) listen() {
	if !j.used("listen") {
		return
	}
	if tls := j.c.TLS; (tls.CertFile == "") != (tls.KeyFile == "") {
		j.fail("tls", "tls: {cert_file: …, key_file: …}", "cert_file and key_file go together")
	}
	listen := j.c.Listen
	_, port, err := net.SplitHostPort(listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		j.fail("listen", "host:port, such as 127.0.0.1:7780, or [::1]:7780", "%q is not an address", j.c.places.shown("listen", listen))
		return
	}
	if token := j.c.Auth.Token; token != "" {
		if strings.ContainsFunc(string(token), func(r rune) bool { return r <= ' ' || r > '~' }) {
			j.fail("auth.token", "use printable characters without spaces", "the token cannot be sent in a header")
		}
	} else if !isLoopback(listen) {
		j.fail("listen", "add auth: {token_file: …}, or listen on 127.0.0.1", "%s can be reached by others, and no token guards it", j.c.places.shown("listen", listen))
	}
}

func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func (j *judge) ttls(path string, ttl, negative, timeout time.Duration, jitter *Percent) {
	for name, d := range map[string]time.Duration{"ttl": ttl, "negative_ttl": negative} {
		if d > maxTTL {
			j.fail(path+"."+name, "", "%s is longer than ten years", formatDuration(d))
		}
		if d < time.Millisecond {
			j.fail(path+"."+name, "", "%s is shorter than a millisecond", d)
		}
	}
	if timeout > maxLoadTimeout {
		j.fail(path+".load_timeout", "", "%s is longer than %s", formatDuration(timeout), formatDuration(maxLoadTimeout))
	}
	if jitter != nil && (*jitter < 0 || *jitter > maxJitter) {
		j.fail(path+".ttl_jitter", "", "%s is not between 0%% and %d%%", jitter, maxJitter)
	}
}

func (j *judge) entry(path, name string, e Entry) {
	if !validEntryName(name) {
		j.fail(path, "use a letter, then letters, digits, '_' and '-', at most 63", "%q is not a name for an entry", name)
	}
	j.ttls(path, e.TTL, e.NegativeTTL, e.LoadTimeout, e.TTLJitter)
	if d := e.MaxStaleness; d > maxTTL {
		j.fail(path+".max_staleness", "", "%s is longer than ten years", formatDuration(d))
	} else if d != 0 && d < time.Millisecond {
		j.fail(path+".max_staleness", "", "%s is shorter than a millisecond", d)
	}
	j.policies(path, e)
	if e.CacheControl != "" {
		j.cacheControl(path+".cache_control", e.CacheControl)
	}
	for i, column := range e.UnsafeIgnore {
		if n := strings.Count(column, "."); n < 1 || n > 2 || strings.HasPrefix(column, ".") || strings.HasSuffix(column, ".") {
			at := fmt.Sprintf("%s.unsafe_ignore.%d", path, i)
			j.fail(at, "write it as table.column", "%q does not name a column", j.c.places.shown(at, column))
		}
	}
	query, code := strings.TrimSpace(e.Query) != "", e.DependsOn != nil // a list that is empty says that no table affects it
	switch {
	case query && code:
		j.fail(path+".depends_on", "remove one: depends_on is for values that application code loads", "an entry has either query or depends_on")
	case !query && !code:
		j.fail(path+".query", "add query, or depends_on for values that application code loads (depends_on: [] when only their writers know of changes)",
			"the entry has neither query nor depends_on")
	}
	j.planned(path, e, query)
	j.loaded(path, e)
	if e.RowVersion != "" && !query {
		j.fail(path+".row_version", "remove it", "row_version is for entries with a query: what code loads is compared byte by byte")
	}
	if e.Key == "" {
		j.fail(path+".key", "key: "+name+":{id}", "the key is missing")
		return
	}
	template, err := rule.ParseTemplate(e.Key)
	if err != nil {
		j.template(path+".key", err)
		return
	}
	if query {
		j.parameters(path, e.Query, template.Params())
	}
	for i, dep := range e.DependsOn {
		j.dependency(fmt.Sprintf("%s.depends_on.%d", path, i), template, dep)
	}
}

func (j *judge) template(path string, err error) {
	if raw := j.c.places.shown(path, ""); raw != "" {
		j.fail(path, "", "the value of %s is not valid", raw)
		return
	}
	if bad, ok := errors.AsType[*rule.TemplateError](err); ok {
		j.fail(path, "", "%q, character %d: %s", bad.Template, bad.Offset+1, bad.Problem)
		return
	}
	j.fail(path, "", "%v", err)
}

// loaded judges what the file says of the code that loads an entry.
func (j *judge) loaded(path string, e Entry) {
	if e.DependsOn != nil {
		return
	}
	if e.Tags != "" {
		j.fail(path+".tags", "remove it", "tags is for entries with depends_on: the tags of a query's values are derived from it")
	}
	if e.Covers != "" {
		j.fail(path+".covers", "remove it", "covers is for entries with depends_on: a query reads nothing but the database")
	}
}

// parameters holds those of a query against those of the key. The planner does so again, with the database; here it
// takes none.
// planned judges what the file says of how a query is planned.
func (j *judge) planned(path string, e Entry, query bool) {
	for _, given := range []struct {
		name string
		set  bool
	}{{"rules", e.Rules != nil}, {"allow_broad", e.AllowBroad != nil}, {"depends_on_time", e.DependsOnTime != nil}, {"functions", e.Functions != nil}} {
		if given.set && !query {
			j.fail(path+"."+given.name, "remove it", "%s is for entries with a query: depends_on says by itself which keys a change affects", given.name)
		}
	}
	for _, table := range slices.Sorted(maps.Keys(e.Rules)) {
		if e.Rules[table] == RuleBroad && !slices.Contains(e.AllowBroad, table) {
			j.fail(path+".rules."+table, fmt.Sprintf("add allow_broad: [%s]", table), "a rule that drops every key has to be allowed")
		}
	}
	if t := e.DependsOnTime; t != nil && t.MaxAge == 0 {
		j.fail(path+".depends_on_time.max_age", "max_age: 30s", "how old a value may be is missing")
	} else if t != nil && t.MaxAge > maxTTL {
		j.fail(path+".depends_on_time.max_age", "", "%s is longer than ten years", formatDuration(t.MaxAge))
	}
	for _, name := range slices.Sorted(maps.Keys(e.Functions)) {
		if e.Functions[name].Reads == nil {
			j.fail(path+".functions."+name+".reads", "reads: [table], or [] when its result follows from its arguments", "what the function reads is missing")
		}
	}
}

func (j *judge) parameters(path, query string, params []string) {
	at := path + ".query"
	fail := func(hint, format string, args ...any) {
		for _, source := range []string{at, path + ".key"} { // what came from the environment is not quoted
			if raw := j.c.places.shown(source, ""); raw != "" {
				j.fail(at, "", "its parameters are not those of the key (one of them is from the environment: %s)", raw)
				return
			}
		}
		j.fail(at, hint, format, args...)
	}
	rewritten, err := sqlparam.Rewrite(query, params)
	if bad, ok := errors.AsType[*sqlparam.Error](err); ok {
		problem := bad.What
		if bad.Why != "" {
			problem += ": " + bad.Why
		}
		before := query[:bad.Offset]
		start := strings.LastIndexByte(before, '\n') + 1
		fail(bad.Do, "line %d of it, column %d: %s", strings.Count(before, "\n")+1, utf8.RuneCountInString(before[start:])+1, problem)
		return
	}
	if err != nil {
		fail("", "%v", err)
		return
	}
	for _, name := range params {
		if !slices.Contains(rewritten.Used, name) {
			fail(fmt.Sprintf("use @%s in the query, or remove {%s} from the key", name, name),
				"parameter {%s} is in the key but not in the query: every value of it would hold a copy of one result", name)
		}
	}
}

func (j *judge) dependency(path string, key *rule.Template, dep Dependency) {
	if dep.Table == "" {
		j.fail(path+".table", "", "the table is missing")
	}
	columns, err := rule.ParseTemplate(dep.Key)
	if err != nil {
		j.template(path+".key", err)
		return
	}
	if got, want := len(columns.Params()), len(key.Params()); got != want {
		j.fail(path+".key", "name one column of the table for each parameter of the entry's key, in its order",
			"%q has %d columns, and the entry's key has %d parameters", j.c.places.shown(path+".key", dep.Key), got, want)
	}
}

// validNamespace accepts the bytes that neither end a part of a store's key nor mean something to Redis Cluster.
func validNamespace(s string) bool {
	return len(s) <= maxNamespace && strings.IndexFunc(s, func(r rune) bool {
		return !isWord(r) && !strings.ContainsRune("-.~%", r)
	}) < 0
}

// validEntryName accepts names that stand unescaped in a key of the store and in a path of the gateway.
func validEntryName(s string) bool {
	if s == "" || len(s) > maxName || !isLetter(rune(s[0])) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !isWord(r) && r != '-' }) < 0
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

func isWord(r rune) bool { return isLetter(r) || '0' <= r && r <= '9' || r == '_' }
