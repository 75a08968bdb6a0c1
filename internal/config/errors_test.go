package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// replace is the minimal file with one text replaced.
func replace(old, with string) string {
	if !strings.Contains(minimal, old) {
		panic("minimal lacks " + old)
	}
	return strings.Replace(minimal, old, with, 1)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	const query = "    query: SELECT id FROM products WHERE id = @id\n"
	tests := []struct {
		name, text string
		want       []string // Summary of each
	}{
		{"empty", "", []string{"f.yaml: the file is empty"}},
		{"only comments", "# nothing\n", []string{"f.yaml: the file is empty"}},
		{"not a mapping", "[a]", []string{"f.yaml:1:1: the file is a mapping (key: value)"}},
		{"syntax", "a: [1\nb: 2", []string{"f.yaml:2:1: not valid YAML: ',' or ']' must be specified"}},
		{"binary", "a: \x00b", []string{"f.yaml:1:4: the file holds a control character or is not UTF-8"}},
		{"not UTF-8", "a:\n  \xffb", []string{"f.yaml:2:3: the file holds a control character or is not UTF-8"}},
		{"private area", "a: \uE024{x}", []string{"f.yaml:1:4: the file holds a character of the private area U+E000 to U+E07F"}},
		{"two documents", "---\n" + minimal + "---\na: 1\n", []string{"f.yaml:11:2: a second YAML document"}},
		{"unknown key", minimal + "lissten: 127.0.0.1:1\n", []string{`f.yaml:9:1: unknown key "lissten" in the file`}},
		{"unknown key deep", minimal + "    tll: 1s\n", []string{`f.yaml:9:5: unknown key "tll" in entries.product`}},
		{"reference as a key", minimal + "${X}: 1\n", []string{`f.yaml:9:1: unknown key "${X}" in the file`}},
		{"duplicate key", minimal + "    key: x\n", []string{`f.yaml:9:5: key "key" stands twice, first in line 7`}},
		{"duplicate entry", minimal + "  product: {key: x, query: SELECT 1}\n", []string{`f.yaml:9:3: key "product" stands twice, first in line 6`}},
		{"merge key", minimal + "    <<: {ttl: 1s}\n", []string{"f.yaml:9:5: merge keys (<<) are not allowed"}},
		{"tag", minimal + "    ttl: !!str 1s\n", []string{"f.yaml:9:10: YAML tags are not allowed"}},
		{"alias without an anchor", minimal + "    ttl: *t\n", []string{"f.yaml:9:10: no anchor &t stands before this alias"}},
		{"alias within itself", minimal + "    unsafe_ignore: &a [*a]\n", []string{"f.yaml:9:23: entries.product.unsafe_ignore.0 is one value, not a mapping or a list"}},
		{"mapping for a value", minimal + "    ttl: {a: 1}\n", []string{"f.yaml:9:10: entries.product.ttl is one value, not a mapping or a list"}},
		{"value for a list", minimal + "    unsafe_ignore: a.b\n", []string{"f.yaml:9:20: entries.product.unsafe_ignore is a list ([a, b], or lines that begin with -)"}},
		{"value for a mapping", replace("{postgres: }", "postgres"), []string{"f.yaml:2:9: source is a mapping (key: value)"}},
		{"bad duration", minimal + "    ttl: 10\n", []string{`f.yaml:9:10: entries.product.ttl: duration "10": write it like 500ms, 30s, 10m or 1h30m`}},
		{"zero duration", minimal + "    ttl: 0s\n", []string{`f.yaml:9:10: entries.product.ttl: duration "0s": it must be greater than 0`}},
		{"negative duration", minimal + "    load_timeout: -2s\n", []string{`f.yaml:9:19: entries.product.load_timeout: duration "-2s": it must be greater than 0`}},
		{"long ttl", minimal + "    ttl: 100000h\n", []string{"f.yaml:9:10: entries.product.ttl: 100000h is longer than ten years"}},
		{"short ttl", minimal + "    ttl: 1us\n", []string{"f.yaml:9:10: entries.product.ttl: 1µs is shorter than a millisecond"}},
		{"long objective", minimal + "    max_staleness: 100000h\n", []string{"f.yaml:9:20: entries.product.max_staleness: 100000h is longer than ten years"}},
		{"short objective", minimal + "    max_staleness: 1us\n", []string{"f.yaml:9:20: entries.product.max_staleness: 1µs is shorter than a millisecond"}},
		{"long timeout", minimal + "    load_timeout: 11m\n", []string{"f.yaml:9:19: entries.product.load_timeout: 11m is longer than 10m"}},
		{"percentage", minimal + "    ttl_jitter: 10\n", []string{`f.yaml:9:17: entries.product.ttl_jitter: percentage "10": write it like 10%`}},
		{"percentage out of range", minimal + "    ttl_jitter: 91%\n", []string{"f.yaml:9:17: entries.product.ttl_jitter: 91% is not between 0% and 90%"}},
		{"percentage below 0", minimal + "    ttl_jitter: -1%\n", []string{"f.yaml:9:17: entries.product.ttl_jitter: -1% is not between 0% and 90%"}},
		{"size", replace("{postgres: }", "{postgres: {rewind: {wal: 1MB}}}"), []string{`f.yaml:2:35: source.postgres.rewind.wal: size "1MB": write it like 256MiB (B, KiB, MiB, GiB, TiB)`}},
		{"result", minimal + "    result: two\n", []string{`f.yaml:9:13: entries.product.result: "two": it is one of: one, many`}},
		{"unset variable", minimal + "    ttl: 1${NOPE}\n", []string{"f.yaml:9:11: entries.product.ttl: environment variable NOPE is not set"}},
		{"malformed reference", minimal + "    ttl: ${A-b}\n", []string{"f.yaml:9:10: entries.product.ttl: a reference to the environment is ${NAME} or ${NAME:-default}; a literal ${ is written $${"}},
		{"reference without end", minimal + "    ttl: \"${A\"\n", []string{"f.yaml:9:10: entries.product.ttl: a reference to the environment is ${NAME} or ${NAME:-default}; a literal ${ is written $${"}},
		{"no database", replace("{url: postgres://app@db/shop}", "{}"), []string{"f.yaml:1:1: database.url: the connection string is missing"}},
		{"database of another kind", replace("postgres://app@db/shop", "mysql://app:x@db/shop"), []string{"f.yaml:1:17: database.url: not a PostgreSQL connection string"}},
		{"no source", replace("source: {postgres: }\n", ""), []string{"f.yaml: source: exactly one source is needed, and there is none"}},
		{
			"two sources", replace("{postgres: }", "{postgres: , kafka: {brokers: [k1:9092], group: g, topics: [t]}}"),
			[]string{"f.yaml:2:22: source.kafka: not supported by this version: Kafka as a source"},
		},
		{"bad slot", replace("{postgres: }", "{postgres: {slot: My-Slot}}"), []string{`f.yaml:2:27: source.postgres.slot: "My-Slot" is not a name that PostgreSQL allows for a slot`}},
		{
			"too little memory", replace("regions:\n  - {name: local, redis: {url: redis://127.0.0.1:6379}}\n", "memory: {size: 1KiB}\n"),
			[]string{"f.yaml:3:16: memory.size: 1KiB is too little to keep anything in: at least 1MiB is needed"},
		},
		{
			"memory and a region", minimal + "memory: {size: 1GiB}\n",
			[]string{"f.yaml:9:1: memory: there are regions, so the store is in Redis and none is in the daemon's own memory"},
		},
		{
			"two regions", replace("entries:", "  - {name: eu, redis: {url: redis://h}}\nentries:"),
			[]string{"f.yaml:3:1: regions: not supported by this version: more than one region (here 2)"},
		},
		{"region without a name", replace("name: local, ", ""), []string{`f.yaml:4:5: regions.0.name: "" is not a name for a region`}},
		{"redis of another kind", replace("redis://127.0.0.1:6379", "127.0.0.1:6379"), []string{"f.yaml:4:32: regions.0.redis.url: not the URL of a Redis"}},
		{"cluster that is none", replace("redis://127.0.0.1:6379", `"redis://h:1?cluster=no"`), []string{"f.yaml:4:32: regions.0.redis.url: cluster=true says that the URL names nodes of a Redis Cluster"}},
		{"cluster and sentinels", replace("redis://127.0.0.1:6379", `"redis://h:1?cluster=true&master_set=m"`), []string{"f.yaml:4:32: regions.0.redis.url: cluster=true says that the URL names nodes of a Redis Cluster"}},
		{"database of a cluster", replace("redis://127.0.0.1:6379", `"redis://h:1/2?addr=i:2"`), []string{"f.yaml:4:32: regions.0.redis.url: a Redis Cluster is reached by host and port, and has no other database than 0"}},
		{"a master without a name", replace("redis://127.0.0.1:6379", `"redis://h:1?addr=i:2&master_set="`), []string{"f.yaml:4:32: regions.0.redis.url: master_set is the name of the master that the Sentinels of the URL watch"}},
		{"a sentinel's user without sentinels", replace("redis://127.0.0.1:6379", "redis://h:1, sentinel: {password: hunter2}"), []string{"f.yaml:4:45: regions.0.redis.sentinel: the URL names no Sentinels"}},
		{"a sentinel's user without a password", replace("redis://127.0.0.1:6379", `"redis://h:1?master_set=m", sentinel: {username: u}`), []string{"f.yaml:4:81: regions.0.redis.sentinel.username: the user has no password"}},
		{"replicas", replace("shop}", "shop, replicas: [postgres://r/shop, http://r, '']}"), []string{
			"f.yaml:1:71: database.replicas.1: not a PostgreSQL connection string", "f.yaml:1:81: database.replicas.2: the connection string is missing",
		}},
		{"bus", minimal + "bus: {nats: {embedded: {dir: ./d}}}\n", []string{"f.yaml:9:1: bus: not supported by this version: a bus between regions"}},
		{"namespace", "namespace: a:b\n" + minimal, []string{`f.yaml:1:12: namespace: "a:b" is not a namespace`}},
		{"namespace with a hash tag", "namespace: \"{a}\"\n" + minimal, []string{`f.yaml:1:12: namespace: "{a}" is not a namespace`}},
		{"listen", minimal + "listen: 7780\n", []string{`f.yaml:9:9: listen: "7780" is not an address`}},
		{"open without a token", minimal + "listen: :7780\n", []string{"f.yaml:9:9: listen: :7780 can be reached by others, and no token guards it"}},
		{"token with a space", minimal + "listen: :7780\nauth: {token: a b}\n", []string{"f.yaml:10:15: auth.token: the token cannot be sent in a header"}},
		{"no entries", before("  product:") + "  {}\n", []string{"f.yaml:5:1: entries: there is no entry"}},
		{"entry name", replace("  product:", "  pro.duct:"), []string{`f.yaml:6:3: entries.pro.duct: "pro.duct" is not a name for an entry`}},
		{"entry without a key", replace("    key: product:{id}\n", ""), []string{"f.yaml:6:3: entries.product.key: the key is missing"}},
		{"entry without a value", minimal + "  other:\n", []string{
			"f.yaml:9:3: entries.other.query: the entry has neither query nor depends_on",
			"f.yaml:9:3: entries.other.key: the key is missing",
		}},
		{"key template", replace("product:{id}", `"{a}{b}"`), []string{"f.yaml:7:10: entries.product.key: \"{a}{b}\", character 4: parameters {a} and {b} need a separator between them that is not a letter, digit or one of -._~%, such as ':'"}},
		{"no query", replace(query, ""), []string{"f.yaml:6:3: entries.product.query: the entry has neither query nor depends_on"}},
		{"query and depends_on", minimal + "    depends_on: [{table: t, key: \"{id}\"}]\n", []string{"f.yaml:9:5: entries.product.depends_on: an entry has either query or depends_on"}},
		{"parameter that the key lacks", replace("product:{id}", "product:{ID}"), []string{
			"f.yaml:8:12: entries.product.query: line 1 of it, column 36: parameter {id} is used in the query but not in the key: two results would share one key",
		}},
		{"parameter that the query lacks", replace("product:{id}", "product:{id}:{lang}:{tenant}"), []string{
			"f.yaml:8:12: entries.product.query: parameter {lang} is in the key but not in the query: every value of it would hold a copy of one result",
			"f.yaml:8:12: entries.product.query: parameter {tenant} is in the key but not in the query: every value of it would hold a copy of one result",
		}},
		{"parameter in a later line", replace(query, "    query: |\n      SELECT 'ü' AS u FROM products\n      WHERE 'ü@x' <> '' AND a = @a -- @b\n"), []string{
			"f.yaml:8:12: entries.product.query: line 2 of it, column 27: parameter {a} is used in the query but not in the key: two results would share one key",
		}},
		{"positional parameter", replace("@id", "$1"), []string{
			"f.yaml:8:12: entries.product.query: line 1 of it, column 36: $1 is a positional parameter: its number says nothing about its place in the key",
		}},
		{"depends_on of nothing at all", replace(query, "    depends_on:\n"), []string{"f.yaml:6:3: entries.product.query: the entry has neither query nor depends_on"}},
		{"query and an empty depends_on", minimal + "    depends_on: []\n", []string{"f.yaml:9:5: entries.product.depends_on: an entry has either query or depends_on"}},
		{"columns of depends_on", replace(query, "    depends_on: [{table: t, key: \"{a}:{b}\"}]\n"), []string{`f.yaml:8:34: entries.product.depends_on.0.key: "{a}:{b}" has 2 columns, and the entry's key has 1 parameters`}},
		{"depends_on without a table", replace(query, "    depends_on: [{key: \"{a}\"}]\n"), []string{"f.yaml:8:18: entries.product.depends_on.0.table: the table is missing"}},
		{"unsafe_ignore", minimal + "    unsafe_ignore: [views]\n", []string{`f.yaml:9:21: entries.product.unsafe_ignore.0: "views" does not name a column`}},
		{"on_change", minimal + "    on_change: renew\n", []string{`f.yaml:9:16: entries.product.on_change: "renew": it is one of: drop, refresh, {serve_stale: {for: 2s}}`}},
		{"on_change without its form", minimal + "    on_change: serve_stale\n", []string{`f.yaml:9:16: entries.product.on_change: "serve_stale": it is one of: drop, refresh, {serve_stale: {for: 2s}}`}},
		{"refresh of code", replace(query, "    depends_on: []\n    on_change: refresh\n"), []string{
			"f.yaml:9:16: entries.product.on_change: the daemon cannot refresh what only application code can load and encode (depends_on)",
		}},
		{"refresh of tags by hand", replace(query, "    depends_on: []\n    tags: by_hand\n    on_change: refresh\n"), []string{
			"f.yaml:10:16: entries.product.on_change: the daemon cannot refresh what only application code can load and encode (depends_on)",
		}},
		{"serve_stale without for", minimal + "    on_change: {serve_stale: {}}\n", []string{"f.yaml:9:16: entries.product.on_change: for how long a stale value is served is missing"}},
		{"serve_stale longer than tolerated", minimal + "    max_staleness: 1s\n    on_change: {serve_stale: {for: 2s}}\n", []string{
			"f.yaml:10:36: entries.product.on_change.serve_stale.for: 2s is not shorter than max_staleness, 1s, which its readers tolerate",
		}},
		{"serve_stale longer than the TTL", minimal + "    ttl: 1s\n    on_change: {serve_stale: {for: 2s}}\n", []string{
			"f.yaml:10:36: entries.product.on_change.serve_stale.for: 2s is longer than ttl, 1s: nothing is kept for so long",
		}},
		{"serve_stale too short", minimal + "    on_change: {serve_stale: {for: 1us}}\n", []string{
			"f.yaml:9:36: entries.product.on_change.serve_stale.for: 1µs is shorter than a millisecond",
		}},
		{"serve_stale_on_error longer than tolerated", minimal + "    max_staleness: 1s\n    serve_stale_on_error: 10s\n", []string{
			"f.yaml:10:27: entries.product.serve_stale_on_error: 10s is not shorter than max_staleness, 1s, which its readers tolerate",
		}},
		{"soft_timeout no shorter", minimal + "    serve_stale_on_error: 10s\n    soft_timeout: 2s\n", []string{
			"f.yaml:10:19: entries.product.soft_timeout: 2s is not shorter than load_timeout, 2s",
		}},
		{"soft_timeout for nothing", minimal + "    soft_timeout: 1s\n", []string{
			"f.yaml:9:19: entries.product.soft_timeout: there is no stale value that a read could take instead of waiting",
		}},
		{"eager_refresh", minimal + "    eager_refresh: 95%\n", []string{"f.yaml:9:20: entries.product.eager_refresh: 95% is not between 1% and 90%"}},
		{"max_loads of none", minimal + "    max_loads: 0\n", []string{"f.yaml:9:16: entries.product.max_loads: 0 is not between 1 and 100000"}},
		{"soft_timeout too late", minimal + "    serve_stale_on_error: 100ms\n    soft_timeout: 1s\n", []string{
			"f.yaml:10:19: entries.product.soft_timeout: when 1s are over, no value is stale for less than 100ms any more, so that none could be taken instead of waiting",
		}},
		{"max_loads", minimal + "    max_loads: -1\n", []string{"f.yaml:9:16: entries.product.max_loads: -1 is not between 1 and 100000"}},
		{"max_value", minimal + "    max_value: 1GiB\n", []string{"f.yaml:9:16: entries.product.max_value: 1GiB is not between 64B and 256MiB"}},
		{"max_value of defaults", minimal + "defaults: {max_value: 1B}\n", []string{
			"f.yaml:6:3: entries.product.max_value: 1B is not between 64B and 256MiB",
			"f.yaml:9:23: defaults.max_value: 1B is not between 64B and 256MiB",
		}},
		{"compress_above what is cached", minimal + "    max_value: 1MiB\n    compress_above: 1MiB\n", []string{
			"f.yaml:10:21: entries.product.compress_above: 1MiB is not less than 1MiB, and no larger value is compressed and cached: none would be compressed",
		}},
		{"compress_above what is compressed", minimal + "    max_value: 256MiB\n    compress_above: 100MiB\n", []string{
			"f.yaml:10:21: entries.product.compress_above: 100MiB is not less than 64MiB, and no larger value is compressed and cached: none would be compressed",
		}},
		{"jitter", minimal + "    ttl_jitter: 110%\n", []string{"f.yaml:9:17: entries.product.ttl_jitter: 110% is not between 0% and 90%"}},
		{"tags and covers of a query", minimal + "    tags: by_hand\n    covers: none\n", []string{
			"f.yaml:9:11: entries.product.tags: tags is for entries with depends_on: the tags of a query's values are derived from it",
			"f.yaml:10:13: entries.product.covers: covers is for entries with depends_on: a query reads nothing but the database",
		}},
		{"tags of another kind", replace(query, "    depends_on: []\n    tags: tenant\n"), []string{`f.yaml:9:11: entries.product.tags: "tenant": it is one of: by_hand`}},
		{"covers of another kind", replace(query, "    depends_on: []\n    covers: all\n"), []string{`f.yaml:9:13: entries.product.covers: "all": it is one of: none`}},
		{"row_version of code", replace(query, "    depends_on: []\n    row_version: p.updated_at\n"), []string{
			"f.yaml:9:18: entries.product.row_version: row_version is for entries with a query: what code loads is compared byte by byte",
		}},
		{"l1", minimal + "l1: {size: 0B}\n", []string{`f.yaml:9:12: l1.size: size "0B": it must be greater than 0, or off`}},
		{"l1 of an entry", minimal + "    l1: 5MiB\n", []string{`f.yaml:9:9: entries.product.l1: "5MiB": it is one of: on, off`}},
		{"on_unproved", minimal + "    on_unproved: reload\n", []string{`f.yaml:9:18: entries.product.on_unproved: "reload": it is one of: revalidate, load`}},
		{"cache_control in quotes only", minimal + "    cache_control: 'private=\"a, b\"'\n", []string{`f.yaml:9:20: entries.product.cache_control: "private=\"a" is no directive of Cache-Control`}},
		{"cache_control with another header", minimal + "    cache_control: \"private\\r\\nX: y\"\n", []string{`f.yaml:9:20: entries.product.cache_control: "private\r\nX: y" is no directive of Cache-Control`}},
		{"cache_control twice", minimal + "    cache_control: max-age=5, max-age=6\n", []string{`f.yaml:9:20: entries.product.cache_control: max-age stands twice`}},
		{"cache_control without seconds", minimal + "    cache_control: private, max-age=5s\n", []string{`f.yaml:9:20: entries.product.cache_control: max-age takes a number of seconds`}},
		{"cache_control that contradicts itself", minimal + "    cache_control: public, private, no-store, max-age=1\n", []string{
			`f.yaml:9:20: entries.product.cache_control: public and private contradict each other`,
			`f.yaml:9:20: entries.product.cache_control: no-store and max-age contradict each other`,
			`f.yaml:9:20: entries.product.cache_control: no-store and public contradict each other`,
		}},
		{"certificate without a key", minimal + "tls: {cert_file: a.pem}\n", []string{`f.yaml:9:1: tls: cert_file and key_file go together`}},
		{"rules without a query", "database: {url: postgres://h/d}\nsource: {postgres: {}}\nregions: [{name: r, redis: {url: redis://h}}]\nentries:\n  e:\n    key: e\n    depends_on: []\n    rules: {a: tags}\n    allow_broad: [a]\n", []string{
			"f.yaml:8:5: entries.e.rules: rules is for entries with a query: depends_on says by itself which keys a change affects",
			"f.yaml:9:5: entries.e.allow_broad: allow_broad is for entries with a query: depends_on says by itself which keys a change affects",
		}},
		{"rules unknown", minimal + "    rules: {categories: ignore}\n", []string{`f.yaml:9:25: entries.product.rules.categories: "ignore": it is one of: tags, lookup, broad`}},
		{"rules broad", minimal + "    rules: {products: broad}\n", []string{`f.yaml:9:13: entries.product.rules.products: a rule that drops every key has to be allowed`}},
		{"allow_broad no list", minimal + "    allow_broad: products\n", []string{`f.yaml:9:18: entries.product.allow_broad is a list ([a, b], or lines that begin with -)`}},
		{"depends_on_time without max_age", minimal + "    depends_on_time: {}\n", []string{`f.yaml:9:5: entries.product.depends_on_time.max_age: how old a value may be is missing`}},
		{"depends_on_time zero", minimal + "    depends_on_time: {max_age: 0s}\n", []string{`f.yaml:9:32: entries.product.depends_on_time.max_age: duration "0s": it must be greater than 0`}},
		{"depends_on_time long", minimal + "    depends_on_time: {max_age: 900000h}\n", []string{`f.yaml:9:32: entries.product.depends_on_time.max_age: 900000h is longer than ten years`}},
		{"functions without reads", minimal + "    functions: {price_of: {}}\n", []string{`f.yaml:9:17: entries.product.functions.price_of.reads: what the function reads is missing`}},
		{"functions unknown key", minimal + "    functions: {price_of: {writes: [prices]}}\n", []string{`f.yaml:9:28: unknown key "writes" in entries.product.functions.price_of`}},
		{"several", replace("app@db/shop}", "app@db/shop, x: 1}") + "    ttl: 1\n    soft_timeout: 1s\n", []string{
			`f.yaml:1:41: unknown key "x" in database`,
			`f.yaml:9:10: entries.product.ttl: duration "1": write it like 500ms, 30s, 10m or 1h30m`,
			"f.yaml:10:19: entries.product.soft_timeout: there is no stale value that a read could take instead of waiting",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := Parse("f.yaml", []byte(tt.text), environment())
			if c != nil {
				t.Fatal("Parse gave a Config besides an error")
			}
			var got []string
			for _, e := range Errors(err) {
				got = append(got, e.Summary())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	_, err := Parse("freshet.yaml", []byte(minimal+"    quary: SELECT 1\n"), environment())
	want := `freshet.yaml:9:5: unknown key "quary" in entries.product
     8 |     query: SELECT id FROM products WHERE id = @id
>    9 |     quary: SELECT 1
       |     ^
  hint: did you mean "query"?`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error text (-want +got):\n%s", diff)
	}
}

// An excerpt shows lines of the file, and those hold secrets.
func TestErrorsShowNoSecrets(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		replace("postgres://app@db/shop", "mysql://app:hunter2@db/shop"),
		replace("postgres://app@db/shop", `"postgres://app:hunter2/@:@db/shop"`) + "lissten: 1\n",
		replace("redis://127.0.0.1:6379", `"http://:hunter2 x@h"`),
		"database: {url: postgres://app:hunter2@db/shop, x: 1}\n",
		"database: [postgres://app:hunter2@db/shop\nb: 1\n",
		"database:\n  url: host=db password=hunter2\n  x: 1\n",
		"auth:\n  token: hunter2\n  x: 1\n",
		"auth:\n  token: >-\n    hunter2\n  x: 1\n",
		"auth: {token: 'hunter2 x'}\nx: 1\n",
		"auth: {token: 'hunter2'",
		minimal + "listen: ${SECRET}\n",
		minimal + "    ttl: ${SECRET}\n",
		minimal + "    result: ${SECRET}\n",
		replace("product:{id}", "${SECRET}"),
		replace("WHERE id = @id", "WHERE id = @${SECRET2}"),
		replace("product:{id}", "product:${SECRET3}"),
		"namespace: ${SECRET}\n" + minimal,
		// Where nothing has been read yet, or stands where it is not understood.
		"auth:\n  token: |\n    hunter2\n  bad: [\n",
		"auth:\n  token:\n    hunter2\n  bad: \"x\n",
		"auth:\n- hunter2\nbad: [\n",
		"auth: {tokn: hunter2}\n",
		"auth: {x: 1, tokn: hunter2, toke: hunter2b}\n",
		"auth: {x: 1,\n  tokn: hunter2, y: 1}\n",
		"auth: hunter2\n",
		"auth: [hunter2]\n",
		"auth: {token: [hunter2]}\n",
		"auth: {token: {a: hunter2}}\n",
		"ahth: {token: {a: [hunter2]}}\n",
		"ahth:\n  tokn: hunter2\nx: 1\n",
		"database: {url: postgres://app@db/shop, replicas: {a: hunter2}}\n",
		"regions: [{name: a, redis: {url: redis://h, pass: hunter2}}]\n",
		"regions: [{name: a, redis: {url: redis://h, sentinel: hunter2}}]\n",
	} {
		_, err := Parse("f.yaml", []byte(text), environment("SECRET=hunter2 {", "SECRET2=hunter2", "SECRET3={hunter2}"))
		if err == nil {
			t.Errorf("no error from\n%s", text)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a secret:\n%v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(minimal)
	f.Add(minimal + "    on_change: {serve_stale: {for: 2s}}\n    ttl: ${A:-x}\n")
	f.Add("a: &x [*x]\n<<: *x\n? a\n: b\n--- !t\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f.yaml", []byte(text), environment("A=1s"))
		if (c == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v: want exactly one of them", c, err)
		}
		for _, e := range Errors(err) {
			if e.Line > strings.Count(text, "\n")+1 || e.Line < 0 || e.Message == "" {
				t.Errorf("error at line %d of %d: %s", e.Line, strings.Count(text, "\n")+1, e.Message)
			}
		}
		if err != nil && len(Errors(err)) == 0 {
			t.Errorf("error without a place: %v", err)
		}
		if c == nil {
			return
		}
		// A file that is accepted prints as one that is accepted.
		masked, err := c.Masked()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("f.yaml", masked, environment()); err != nil && !strings.Contains(string(masked), "${") {
			t.Errorf("printed configuration is refused: %v\n%s", err, masked)
		}
	})
}

// before is the minimal file up to a text.
func before(text string) string {
	head, _, found := strings.Cut(minimal, text)
	if !found {
		panic("minimal lacks " + text)
	}
	return head
}
