package archtest_test

import "strings"

const module = "github.com/freshet/freshet"

// root is the table's name for the package at the module's root, the library.
const root = "freshet"

// layers is the layer table: a package imports strictly lower layers. ARCHITECTURE.md shows the same table.
func layers() [][]string {
	return [][]string{
		0: {"mvcc"},
		1: {
			"internal/change", "internal/ddl", "internal/envelope", "internal/intent", "internal/keytext", "internal/rule", "internal/schema",
			"internal/sqlparam", "internal/wal",
		},
		2: {"internal/fence", "internal/plan", "internal/route", "internal/watermark"},
		3: {
			"internal/config", "internal/localserver", "internal/memstore", "internal/near", "internal/page", "internal/pgcatalog", "internal/pggate", "internal/pgload",
			"internal/pgsource", "internal/pgurl", "internal/redisstore", "internal/store", "internal/trail",
		},
		4: {"internal/apply", "internal/byhand", "internal/configschema", "internal/fill", "internal/mend", "internal/starter", "internal/trace", "internal/whatif"},
		5: {root, "freshetmsgpack", "freshetproto", "internal/parts", "internal/pipeline", "internal/readmetrics"},
		6: {"freshetotel", "freshetprom", "freshettest", "internal/api", "internal/verify"},
		7: {"internal/daemon", "internal/demo"},
		8: {"embedded", "internal/cli"},
		9: {"cmd/freshet"},
	}
}

// sideways lists the imports within a layer that are meant: rules and intents are made of key texts, the catalog
// describes the relations that changes name, a database's address is read in one place, stores have one vocabulary, and the
// library takes what is handed to it.
func sideways(importer, imported string) bool {
	return (importer == "internal/rule" || importer == "internal/intent") && imported == "internal/keytext" ||
		importer == "internal/schema" && imported == "internal/change" ||
		(importer == "internal/pggate" || importer == "internal/pgsource") && imported == "internal/pgurl" ||
		(importer == "internal/memstore" || importer == "internal/redisstore" || importer == "internal/near") && imported == "internal/store" ||
		importer == root && imported == "internal/parts"
}

// testsOnly tells the packages that exist for tests. They may import everything, and no other package imports them.
func testsOnly(name string) bool {
	return within(name, "internal/testkit") || within(name, "internal/archtest") || within(name, "spec") ||
		within(name, "test")
}

// pure tells the packages that decide and do nothing else.
func pure(name string) bool {
	switch name {
	case "mvcc", "internal/ddl", "internal/envelope", "internal/intent", "internal/keytext", "internal/rule", "internal/schema", "internal/sqlparam", "internal/wal",
		"internal/fence", "internal/route", "internal/watermark":
		return true
	default:
		return false
	}
}

// impure are the standard packages that a pure one does not import, nor anything under them.
func impure() []string {
	return []string{"net", "os", "log", "context", "sync", "syscall"}
}

// drivers says which third-party modules a package may import, besides the ones for everybody.
func drivers(name string) []string {
	const (
		postgres = "github.com/jackc/pgx/v5"
		redis    = "github.com/redis/rueidis"
		metrics  = "github.com/prometheus/"

		telemetry = "go.opentelemetry.io/otel"
	)
	switch name {
	case "internal/plan":
		return []string{"github.com/pganalyze/pg_query_go/v6", "google.golang.org/protobuf"}
	case "freshetmsgpack":
		return []string{"github.com/vmihailenco/msgpack/v5"}
	case "freshetproto":
		return []string{"google.golang.org/protobuf"}
	case "internal/config":
		return []string{"github.com/goccy/go-yaml"}
	case "internal/configschema":
		return []string{"github.com/invopop/jsonschema"}
	case "internal/pgsource", "internal/pgcatalog", "internal/pgload", "internal/pggate", "internal/pgurl":
		return []string{postgres}
	case "internal/near":
		return []string{"github.com/maypok86/otter/v2"}
	case "internal/redisstore":
		return []string{redis, "github.com/klauspost/compress/zstd"}
	case "internal/fill", "freshettest", root:
		return []string{postgres} // the transaction that is handed to a loader written in Go
	case "internal/pipeline":
		return []string{postgres} // the session in which it has the entries compiled against the catalog
	case "internal/api", "freshetprom":
		return []string{metrics}
	case "freshetotel":
		return []string{telemetry}
	case "internal/daemon":
		return []string{postgres, metrics}
	case "internal/demo":
		return []string{postgres, redis} // its writers, and the cache-aside code that it shows beside freshet
	case "internal/cli":
		return []string{"github.com/spf13/cobra", postgres} // check and drop ask the database themselves
	default:
		return nil
	}
}

// everybodysFrom is the first layer that may use the helpers of golang.org/x; below it everything is our own.
const everybodysFrom = 3

func everybodys(path string) bool {
	return within(path, "golang.org/x/sync") || within(path, "golang.org/x/sys")
}

// neverLinked says what must not be among a package's dependencies, however far down, and why.
func neverLinked() map[string]map[string]string {
	const users = "a program that uses the library must not link the daemon's side"
	return map[string]map[string]string{
		root: {
			module + "/internal/plan":               users,
			module + "/internal/pgcatalog":          users,
			module + "/internal/pgsource":           users,
			module + "/internal/daemon":             users,
			"github.com/pganalyze/pg_query_go":      users,
			"github.com/spf13/cobra":                users,
			"github.com/prometheus/client_golang":   users,
			"go.opentelemetry.io/otel":              users,
			"github.com/invopop/jsonschema":         users,
			"github.com/jackc/pglogrepl":            users,
			"github.com/vmihailenco/msgpack":        "a codec is linked by who uses it",
			"google.golang.org/protobuf":            "a codec is linked by who uses it",
			"github.com/santhosh-tekuri/jsonschema": users,
			module + "/internal/memstore":           "what keeps a store in memory keeps it in the daemon's process",
			module + "/embedded":                    users,
		},
		"freshettest": {
			module + "/internal/plan":          "a unit test must not link the daemon's side",
			module + "/internal/pgcatalog":     "a unit test must not link the daemon's side",
			module + "/internal/daemon":        "a unit test must not link the daemon's side",
			"github.com/pganalyze/pg_query_go": "a unit test must not link the daemon's side",
		},
		"internal/pgcatalog": {module + "/internal/plan": "reading a catalog needs no SQL parser"},
	}
}

// within tells whether a path is the other one or below it.
func within(path, above string) bool {
	return path == above || strings.HasPrefix(path, strings.TrimSuffix(above, "/")+"/")
}
