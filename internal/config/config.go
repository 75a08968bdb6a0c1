// Package config reads freshet.yaml: strictly, with every error at its line and column, and with secrets that do not
// print. Its structs are the one source of the JSON Schema, of the sample file and of docs/configuration.md: the tags
// carry the descriptions.
package config

import (
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// A field's tags say how it is decoded and described:
//
//	yaml                    its key
//	jsonschema              "required", "default=…", "example=…"
//	jsonschema_description  what it means, one or two sentences
//	later                   it is known, and refused by this version; the text says what is not supported

// Config is a whole file. Load returns one that is valid and complete.
type Config struct {
	Namespace string           `yaml:"namespace,omitempty"  jsonschema:"example=shop"              jsonschema_description:"Keeps the keys of one database apart from all others in the same Redis: letters, digits, '_', '-', '.', '~' and '%'. Default: derived from the database's system identifier and name."`
	Database  Database         `yaml:"database"             jsonschema:"required"                  jsonschema_description:"The PostgreSQL database whose rows are cached."`
	Source    Source           `yaml:"source"               jsonschema:"required"                  jsonschema_description:"Where changes come from: exactly one source."`
	Regions   []Region         `yaml:"regions,omitempty"                                           jsonschema_description:"The stores that hold the cached values. Without it the daemon keeps them in its own memory: they are gone when it ends, and no other process reads them but through it."`
	Memory    Memory           `yaml:"memory,omitempty"                                            jsonschema_description:"The store in the daemon's own memory, of a file without regions."`
	Bus       *Bus             `yaml:"bus,omitempty"                                               jsonschema_description:"Carries invalidations between regions." later:"a bus between regions"`
	Listen    string           `yaml:"listen,omitempty"     jsonschema:"default=127.0.0.1:7780"    jsonschema_description:"Address of the gateway, the status and the metrics. Any address but loopback needs auth."`
	Auth      Auth             `yaml:"auth,omitempty"                                              jsonschema_description:"The bearer token that requests must carry. Required unless listen is a loopback address."`
	TLS       TLS              `yaml:"tls,omitempty"                                               jsonschema_description:"The certificate with which the gateway speaks TLS. Without it the gateway speaks plain HTTP."`
	L1        L1               `yaml:"l1,omitempty"                                                jsonschema_description:"What each process that reads through the Go library holds in its own memory, so that a read needs no Redis."`
	Defaults  Defaults         `yaml:"defaults,omitempty"                                          jsonschema_description:"What entries use that do not say otherwise."`
	Entries   map[string]Entry `yaml:"entries"              jsonschema:"required"                  jsonschema_description:"The kinds of cached things, by name: a letter, then letters, digits, '_' and '-'."`

	places *places
}

// Database is where loads go.
type Database struct {
	URL          URL    `yaml:"url"                     jsonschema:"example=${DATABASE_URL}" jsonschema_description:"Connection string (postgres://… or key=value). Loads and verification use it and, unless source.postgres.url says otherwise, the log, and what looks keys up for it."`
	URLFile      string `yaml:"url_file,omitempty"      jsonschema:"example=/run/secrets/database_url" jsonschema_description:"A file that holds the connection string, instead of url. Relative paths start at the directory of this file."`
	PasswordFile string `yaml:"password_file,omitempty" jsonschema:"example=/run/secrets/database_password" jsonschema_description:"A file that holds the password, when the connection string has none."`
	Replicas     []URL  `yaml:"replicas,omitempty"      jsonschema:"example=[${REPLICA_URL}]" jsonschema_description:"Connection strings of hot standbys of the same database, each reached by itself or through a pooler. A load goes to one of them when its row can be proved recent enough to be cached; otherwise, and while none answers, to url."`
}

// Source is where changes come from: exactly one field is set.
type Source struct {
	Postgres *Postgres `yaml:"postgres,omitempty" jsonschema_description:"PostgreSQL's own log, by logical replication."`
	Kafka    *Kafka    `yaml:"kafka,omitempty"    jsonschema_description:"Debezium's change events." later:"Kafka as a source"`
}

// Postgres is the log of a PostgreSQL primary.
type Postgres struct {
	URL          URL    `yaml:"url,omitempty"           jsonschema:"example=${LOG_URL}" jsonschema_description:"Connection string for the log, when it is not database.url: the primary itself, never a pooler or a standby."`
	URLFile      string `yaml:"url_file,omitempty"      jsonschema:"example=/run/secrets/log_url" jsonschema_description:"A file that holds the connection string, instead of url."`
	PasswordFile string `yaml:"password_file,omitempty" jsonschema:"example=/run/secrets/log_password" jsonschema_description:"A file that holds the password, when the connection string has none."`
	Slot         string `yaml:"slot,omitempty"          jsonschema:"default=freshet" jsonschema_description:"Name of the replication slot; made when it is not there. freshet drop removes it."`
	Publication  string `yaml:"publication,omitempty"   jsonschema:"default=freshet" jsonschema_description:"Name of the publication; made when it is not there, and extended by the tables that entries read."`
	Rewind       Rewind `yaml:"rewind,omitempty"        jsonschema_description:"How far the slot's confirmation stays behind what was applied, so that changes can be delivered again when Redis loses history. Whichever limit is reached first counts."`
}

// Rewind is how far back changes can be delivered again.
type Rewind struct {
	Time time.Duration `yaml:"time,omitempty" jsonschema:"default=30s"    jsonschema_description:"By time."`
	WAL  Size          `yaml:"wal,omitempty"  jsonschema:"default=256MiB" jsonschema_description:"By bytes of write-ahead log."`
}

// Kafka is a source of a later version.
type Kafka struct {
	Brokers []string `yaml:"brokers" jsonschema_description:"Addresses of brokers."`
	Group   string   `yaml:"group"   jsonschema_description:"Consumer group."`
	Topics  []string `yaml:"topics"  jsonschema_description:"Topics or patterns of them."`
}

// Memory is the store in the daemon's own memory.
type Memory struct {
	Size Size `yaml:"size,omitempty" jsonschema:"default=256MiB" jsonschema_description:"How much memory the cached values may take. Beyond it those are given up that were not read for longest."`
}

// MemoryRegion is the name of the region whose store is in the daemon's own memory.
const MemoryRegion = "memory"

// InMemory reports whether the daemon keeps the store in its own memory.
func (c *Config) InMemory() bool { return len(c.Regions) == 0 }

// RegionName is the name of the region that the daemon serves.
func (c *Config) RegionName() string {
	if c.InMemory() {
		return MemoryRegion
	}
	return c.Regions[0].Name
}

// Region is one store and those who read it.
type Region struct {
	Name  string `yaml:"name"  jsonschema:"required,example=local" jsonschema_description:"Name of the region: a letter, then letters, digits, '_' and '-'."`
	Redis Redis  `yaml:"redis" jsonschema:"required"               jsonschema_description:"Its Redis or Valkey server."`
}

// Redis is one Redis or Valkey server, or one master that Sentinels watch.
type Redis struct {
	URL          URL    `yaml:"url"                     jsonschema:"example=redis://127.0.0.1:6379" jsonschema_description:"redis://[user:password@]host:port[/db], rediss:// for TLS (with ?sslrootcert=, sslcert= and sslkey= for certificates of your own), or unix:///path. With Sentinel: redis://[user:password@]sentinel1:26379[/db]?addr=sentinel2:26379&addr=sentinel3:26379&master_set=name, where user, password and database are those of the servers that the Sentinels watch. With Redis Cluster: redis://[user:password@]node1:6379?cluster=true&addr=node2:6379, where the nodes that are named need not be all."`
	URLFile      string `yaml:"url_file,omitempty"      jsonschema:"example=/run/secrets/redis_url" jsonschema_description:"A file that holds the URL, instead of url."`
	PasswordFile string `yaml:"password_file,omitempty" jsonschema:"example=/run/secrets/redis_password" jsonschema_description:"A file that holds the password, when the URL has none."`

	Sentinel Sentinel `yaml:"sentinel,omitempty" jsonschema_description:"How to log in to the Sentinels that url names, when they want it."`
}

// Sentinel is a user of Sentinels.
type Sentinel struct {
	Username     string `yaml:"username,omitempty"      jsonschema:"example=freshet" jsonschema_description:"Their user; without it, password is the one of requirepass."`
	Password     Secret `yaml:"password,omitempty"      jsonschema:"example=${SENTINEL_PASSWORD}" jsonschema_description:"The password; best from the environment."`
	PasswordFile string `yaml:"password_file,omitempty" jsonschema:"example=/run/secrets/sentinel_password" jsonschema_description:"A file that holds the password, instead of password."`
}

// Bus is a feature of a later version.
type Bus struct {
	NATS *NATS `yaml:"nats,omitempty" jsonschema_description:"NATS JetStream."`
}

// NATS is a feature of a later version.
type NATS struct {
	Embedded *EmbeddedNATS `yaml:"embedded,omitempty" jsonschema_description:"A server inside the daemon."`
	URLs     []URL         `yaml:"urls,omitempty"     jsonschema_description:"Servers of its own."`
	Replicas int           `yaml:"replicas,omitempty" jsonschema_description:"Copies of the stream."`
}

// EmbeddedNATS is a feature of a later version.
type EmbeddedNATS struct {
	Dir string `yaml:"dir" jsonschema_description:"Where it keeps its data."`
}

// Auth guards the gateway.
type Auth struct {
	Token     Secret `yaml:"token,omitempty"      jsonschema:"example=${FRESHET_TOKEN}" jsonschema_description:"The token itself; best from the environment."`
	TokenFile string `yaml:"token_file,omitempty" jsonschema:"example=/run/secrets/freshet" jsonschema_description:"A file that holds the token."`
}

// TLS is what the gateway shows to whoever connects.
type TLS struct {
	CertFile string `yaml:"cert_file,omitempty" jsonschema:"example=/etc/ssl/freshet.pem" jsonschema_description:"The certificate in PEM, with those that lead to its authority. Read anew when it changes. Relative paths start at the directory of this file."`
	KeyFile  string `yaml:"key_file,omitempty"  jsonschema:"example=/run/secrets/freshet.key" jsonschema_description:"Its key in PEM."`
}

// L1 is what is held in a process's memory.
type L1 struct {
	Size Room `yaml:"size,omitempty" jsonschema:"default=64MiB" jsonschema_description:"How much memory, or off. Redis tells of changes (CLIENT TRACKING, RESP3), and where it does not, nothing is held."`
}

// Defaults apply to entries that do not say otherwise.
type Defaults struct {
	TTL         time.Duration `yaml:"ttl,omitempty"          jsonschema:"default=1h"  jsonschema_description:"How long a value may stay cached at most."`
	TTLJitter   *Percent      `yaml:"ttl_jitter,omitempty"   jsonschema:"default=10%" jsonschema_description:"How much of the TTL is random, so that values loaded together do not expire together: 0% to 90%."`
	NegativeTTL time.Duration `yaml:"negative_ttl,omitempty" jsonschema:"default=30s" jsonschema_description:"How long \"no such row\" may stay cached at most."`
	LoadTimeout time.Duration `yaml:"load_timeout,omitempty" jsonschema:"default=2s"  jsonschema_description:"How long a load from the database may take; nobody waits for a value longer."`
	OnUnproved  OnUnproved    `yaml:"on_unproved,omitempty"  jsonschema:"default=revalidate" jsonschema_description:"What a read does that asks for more than the cached value can be shown to be (a bound, a token, a session): revalidate asks the database whether the value is still what it has, and for another one only; load loads it anew. Either is as fresh."`
	MaxValue    Size          `yaml:"max_value,omitempty"    jsonschema:"default=64MiB" jsonschema_description:"The largest value that is cached. A larger one is returned and not stored."`
}

// Entry is one kind of cached thing. Exactly one of Query and DependsOn is set.
type Entry struct {
	Key           string              `yaml:"key"                     jsonschema:"required,example=product:{id}" jsonschema_description:"The key of one value, with every parameter of the query in braces."`
	Query         string              `yaml:"query,omitempty"         jsonschema:"example=SELECT id\\, name\\, price FROM products WHERE id = @id" jsonschema_description:"The SELECT that loads it, with parameters as @name. What changes it is derived from the query."`
	DependsOn     []Dependency        `yaml:"depends_on,omitempty"    jsonschema_description:"Instead of query, for values that application code loads: the tables whose changes affect it. With [] no change of a table does: only what its writers say of it (docs/writing.md), and its TTL, keep it fresh."`
	Tags          TagsKind            `yaml:"tags,omitempty"          jsonschema:"example=by_hand" jsonschema_description:"With depends_on: by_hand when the code that loads a value ties it to tags (freshet.Tag), each of which a writer's intent takes out of use with all that is tied to it (docs/writing.md). A hit then asks for the tags' keys too."`
	Covers        CoversKind          `yaml:"covers,omitempty"        jsonschema:"example=none" jsonschema_description:"With depends_on: none when the code that loads it reads elsewhere than in the database. Its lease and its TTL are then all that bounds how old a value is in that, and reads that ask for more than a cached value (After, MaxStale, Through, Revalidate) always load."`
	Result        rule.Result         `yaml:"result,omitempty"        jsonschema:"default=one" jsonschema_description:"What a value is: with one an object, or \"not found\", which is cached too; with many an array."`
	TTL           time.Duration       `yaml:"ttl,omitempty"           jsonschema:"example=10m" jsonschema_description:"How long a value may stay cached at most. Default: that of defaults."`
	TTLJitter     *Percent            `yaml:"ttl_jitter,omitempty"    jsonschema:"example=10%" jsonschema_description:"How much of the TTL is random. Default: that of defaults."`
	NegativeTTL   time.Duration       `yaml:"negative_ttl,omitempty"  jsonschema:"example=30s" jsonschema_description:"How long \"no such row\" may stay cached at most. Default: that of defaults."`
	LoadTimeout   time.Duration       `yaml:"load_timeout,omitempty"  jsonschema:"example=2s" jsonschema_description:"How long a load may take. Default: that of defaults."`
	MaxStaleness  time.Duration       `yaml:"max_staleness,omitempty" jsonschema:"example=5s" jsonschema_description:"What its readers tolerate: an objective. freshet check says what meets it, the daemon exports whether it is met. Reads that must not exceed it say so themselves."`
	OnUnproved    OnUnproved          `yaml:"on_unproved,omitempty"   jsonschema:"example=load" jsonschema_description:"What a read does that asks for more than the cached value can be shown to be. Default: that of defaults."`
	L1            Switch              `yaml:"l1,omitempty"            jsonschema:"default=on" jsonschema_description:"With off its values are not held in any process's memory. For entries that are written with freshet.Strict, which otherwise waits until every process has dropped what it held, for a second."`
	OnChange      OnChange            `yaml:"on_change,omitempty"     jsonschema:"default=drop" jsonschema_description:"What an invalidation does. drop: the next read loads. refresh: the daemon loads the value again at once, if it is hot (entries with a query only). {serve_stale: {for: 2s}}: the old value is served for so long after it, marked as stale, while one load replaces it. See docs/policies.md."`
	StaleOnError  time.Duration       `yaml:"serve_stale_on_error,omitempty" jsonschema:"example=2s" jsonschema_description:"For how long after its invalidation a value is served, marked as stale, when the database fails or takes longer than soft_timeout. Without it, never."`
	SoftTimeout   time.Duration       `yaml:"soft_timeout,omitempty"  jsonschema:"example=200ms" jsonschema_description:"How long a read waits for a load before it takes a stale value that serve_stale_on_error allows; the load goes on."`
	EagerRefresh  *Percent            `yaml:"eager_refresh,omitempty" jsonschema:"example=20%" jsonschema_description:"The last part of the TTL in which a value that is read is loaded again beside the read, so that hot values do not expire: 1% to 90%. Without it they do."`
	MaxLoads      *int                `yaml:"max_loads,omitempty"     jsonschema:"example=8" jsonschema_description:"How many loads of the entry run at a time in one process, besides the limit for all entries."`
	MaxValue      Size                `yaml:"max_value,omitempty"     jsonschema:"example=1MiB" jsonschema_description:"The largest value that is cached. Default: that of defaults."`
	CacheControl  string              `yaml:"cache_control,omitempty" jsonschema:"example=private\\, max-age=5" jsonschema_description:"The Cache-Control of the gateway's answers: how long clients and proxies may use one without asking. Nothing tells them of a change meanwhile. Default: private, no-cache."`
	CompressAbove Size                `yaml:"compress_above,omitempty" jsonschema:"example=4KiB" jsonschema_description:"Values of more bytes than this are compressed (zstd) by who stores them in Redis: less memory and network there, more work for each read of one. Readers from before this setting take such values for missing, and store theirs over them. A daemon without Redis keeps all as they are. Default: none is compressed."`
	UnsafeIgnore  []string            `yaml:"unsafe_ignore,omitempty" jsonschema:"example=[products.views]" jsonschema_description:"Columns (table.column) whose changes are ignored. A value may then stay outdated in them until its TTL; explain says so."`
	RowVersion    string              `yaml:"row_version,omitempty"   jsonschema:"example=updated_at" jsonschema_description:"A column, or an expression over columns of the query's tables, that changes whenever the value does: conditional reads then need not look at the value itself. Without it they compare stored row versions, or a digest."`
	Rules         map[string]RuleKind `yaml:"rules,omitempty"         jsonschema:"example={categories: tags}" jsonschema_description:"How changes of a table find the keys that they affect, where another way is wanted than the one that explain shows: tags, by join values that are noted when a value is filled; lookup, by a query when a row has changed; broad, which drops every key (and has to be in allow_broad)."`
	AllowBroad    []string            `yaml:"allow_broad,omitempty"   jsonschema:"example=[products]" jsonschema_description:"Tables of which every change may drop every key of the entry. Required where nothing ties a table to the key, or old rows do not say which key they are of; explain says why."`
	DependsOnTime *DependsOnTime      `yaml:"depends_on_time,omitempty" jsonschema_description:"Required when the query asks for the present time (now(), current_date): its result then changes without any write."`
	Functions     map[string]Function `yaml:"functions,omitempty"     jsonschema:"example={price_of: {reads: [prices]}}" jsonschema_description:"What the functions of your own that the query calls read, by name. One that is not here is refused."`
}

// Dependency is a table whose changes affect an entry that code loads.
type Dependency struct {
	Table string `yaml:"table" jsonschema:"required" jsonschema_description:"The table, with its schema unless that is public."`
	Key   string `yaml:"key"   jsonschema:"required" jsonschema_description:"The columns that give the entry's parameters, in their order, in braces."`
}

// DependsOnTime is what is tolerated of a query that asks for the present time.
type DependsOnTime struct {
	MaxAge time.Duration `yaml:"max_age" jsonschema:"required,example=30s" jsonschema_description:"How old a value may be: neither ttl nor negative_ttl is longer."`
}

// Function is what is known of a function of a user.
type Function struct {
	Reads []string `yaml:"reads" jsonschema:"required,example=[prices]" jsonschema_description:"The tables that it reads, with their schema unless that is public; [] when its result follows from its arguments. Every change of one of them drops every key of the entry, so they have to be in allow_broad."`
}

// Names are the names of the entries, sorted.
func (c *Config) Names() []string {
	names := make([]string, 0, len(c.Entries))
	for name := range c.Entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Declared are the entries as planning and the roster want them, sorted by name.
func (c *Config) Declared() []rule.Declared {
	declared := make([]rule.Declared, 0, len(c.Entries))
	for _, name := range c.Names() {
		e := c.Entries[name]
		d := rule.Declared{Name: name, Key: e.Key, Query: e.Query, Result: e.Result, UnsafeIgnore: e.UnsafeIgnore, RowVersion: e.RowVersion}
		if e.DependsOn != nil {
			d.DependsOn = []rule.Dependency{}
		}
		d.Tags, d.Covers = string(e.Tags), string(e.Covers)
		d.AllowBroad, d.DependsOnTime = e.AllowBroad, e.DependsOnTime != nil
		for table, kind := range e.Rules {
			if d.Rules == nil {
				d.Rules = map[string]string{}
			}
			d.Rules[table] = string(kind)
		}
		for function, f := range e.Functions {
			if d.Functions == nil {
				d.Functions = map[string][]string{}
			}
			d.Functions[function] = f.Reads
		}
		for _, dep := range e.DependsOn {
			d.DependsOn = append(d.DependsOn, rule.Dependency(dep))
		}
		declared = append(declared, d)
	}
	return declared
}

// NamespaceFor is the namespace in force: the file's or, when it has none, the one derived from the system identifier
// and the name of the database.
func (c *Config) NamespaceFor(systemID, database string) string {
	if c.Namespace != "" {
		return c.Namespace
	}
	return systemID + "-" + string(keytext.AppendEscaped(nil, keytext.Arg{Text: database}))
}

// ErrorAt is an error about the value at a path such as "entries.product.query": at its line and column when the
// configuration came from a file.
func (c *Config) ErrorAt(path, message, hint string) *Error {
	if c.places == nil {
		return &Error{Message: strings.TrimPrefix(path+": ", ": ") + message, Hint: hint}
	}
	return c.places.errorAt(path, message, hint)
}
