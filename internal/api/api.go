// Package api is what the daemon says over HTTP: the gateway that reads entries, the status, the probes and the
// metrics.
package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/page"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// Reader reads entries: from the cache where it may, from the database where it must.
type Reader interface {
	// Params are the parameters of an entry in the order of its key; ErrNoEntry when it is not declared.
	Params(ctx context.Context, entry string) ([]rule.Param, error)
	// Read reads the value for arguments in canonical text, one for each parameter.
	Read(ctx context.Context, entry string, args []keytext.Arg, d Demand) (Value, error)
	// ReadMany reads many values, and returns for each, in the order of the keys, what Read would.
	ReadMany(ctx context.Context, entry string, keys [][]keytext.Arg, d Demand) ([]Value, []error)
}

// Demand is what a request asks of a value. The zero Demand asks nothing.
type Demand struct {
	After      mvcc.Token    // contain this transaction; zero: none
	Revalidate bool          // be what the database has, as it says after the request came
	Bounded    bool          // miss nothing that was committed more than MaxStale before the request came
	MaxStale   time.Duration //
}

// Value is what a Reader found.
type Value struct {
	Found   bool
	Payload []byte    // JSON; nobody changes it
	Status  string    // hit, miss, stale, revalidated or bypass
	Filled  time.Time // when it was loaded, by the clock of its store; zero when it was loaded just now
	// CacheControl is the header that the entry asks for; empty: the usual one.
	CacheControl string
}

// StatusSource tells what the daemon does, as a value that marshals to JSON. It answers from memory.
type StatusSource interface {
	Status() any
}

// Health answers the probes. An error says what is wrong.
type Health interface {
	// Live fails only when the daemon is connected, behind, and does not get on: a restart may help.
	Live() error
	// Ready fails when the store may not vouch for its freshness.
	Ready() error
}

// Reloader has the daemon read its file again.
type Reloader interface {
	// Reload applies the file and says what changed, as a value that marshals to JSON. ErrNotApplied, ErrNotYet: the one before stays in force.
	Reload(ctx context.Context) (any, error)
}

// Options are what New needs. All fields but Token are required.
type Options struct {
	Reader Reader
	Status StatusSource
	Health Health
	Reload Reloader
	Memory MemorySource
	Trace  Tracer

	Invalidate Invalidator

	Metrics *Metrics
	Scrape  http.Handler // answers GET /metrics
	Token   string       // bearer token that every request but the probes must carry; empty: none
	Logger  *slog.Logger
}

type server struct {
	Options
	files map[string]page.File
	token [sha256.Size]byte
}

// New is the handler of everything that the daemon serves.
func New(o Options) http.Handler {
	return &server{Options: o, files: page.Files(), token: sha256.Sum256([]byte(o.Token))}
}

const entriesPath = "/v1/entries/"

// ServeHTTP routes by the path as it was sent: an argument may be empty or hold an escaped slash, and must not be
// cleaned away.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch path {
	case "/livez":
		s.probe(w, r, s.Health.Live)
		return
	case "/readyz":
		s.probe(w, r, s.Health.Ready)
		return
	}
	if s.Token == "" && !ownHost(r.Host) {
		problem{
			Type: problemForeignHost, Title: "Asked for by a name", Status: http.StatusMisdirectedRequest,
			Detail: "Without a token only requests are answered whose Host is an IP address or localhost, since the page of a site whose name points here could read and change everything. Ask by address, or configure auth.",
		}.write(w)
		return
	}
	if s.page(w, r, path) {
		return
	}
	if !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="freshet"`)
		problem{
			Type: problemUnauthorized, Title: "A token is needed", Status: http.StatusUnauthorized,
			Detail: "Send the header Authorization: Bearer TOKEN.",
		}.write(w)
		return
	}
	switch {
	case strings.HasPrefix(path, entriesPath):
		s.entry(w, r, path[len(entriesPath):])
	case strings.HasPrefix(path, manyPath):
		s.many(w, r, path[len(manyPath):])
	case path == "/v1/status":
		if allowed(w, r) {
			s.writeJSON(w, r, http.StatusOK, s.Status.Status())
		}
	case strings.HasPrefix(path, tracePath):
		s.trace(w, r, path[len(tracePath):])
	case path == storePath, strings.HasPrefix(path, storePath+"/"):
		s.memory(w, r, path[len(storePath):])
	case path == "/v1/openapi.json":
		s.openapi(w, r)
	case path == "/v1/reload":
		s.reload(w, r)
	case path == "/v1/invalidate":
		s.invalidate(w, r)
	case path == "/metrics":
		if allowed(w, r) {
			s.Scrape.ServeHTTP(w, r)
		}
	default:
		problem{
			Type: problemNoRoute, Title: "No such resource", Status: http.StatusNotFound,
			Detail: "Entries are at /v1/entries/{entry}/{argument}, and many at once at /v1/many/{entry}?k=[argument].",
		}.write(w)
	}
}

// ownHost reports whether a request names this server in a way that no other site's name can be made to (DNS rebinding).
func ownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// authorized compares digests, so that the time it takes says nothing about the token.
func (s *server) authorized(r *http.Request) bool {
	if s.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}

// allowed refuses methods other than GET and HEAD.
func allowed(w http.ResponseWriter, r *http.Request) bool {
	if slices.Contains([]string{http.MethodGet, http.MethodHead}, r.Method) {
		return true
	}
	refuse(w, r, "GET, HEAD")
	return false
}

// refuse answers a method that is not among those that are allowed: 405 where it is one of HTTP's own, and 501 where nothing
// is known of it (RFC 9110, 9.1).
func refuse(w http.ResponseWriter, r *http.Request, allow string) {
	detail := "Allowed here: " + allow + "."
	if refusalOf(r.Method) == http.StatusNotImplemented {
		problem{Type: problemUnknownMethod, Title: "Method not implemented", Status: http.StatusNotImplemented, Detail: detail}.write(w)
		return
	}
	w.Header().Set("Allow", allow)
	problem{Type: problemMethod, Title: "Method not allowed", Status: http.StatusMethodNotAllowed, Detail: detail}.write(w)
}

func refusalOf(method string) int {
	if slices.Contains(standardMethods(), method) {
		return http.StatusMethodNotAllowed
	}
	return http.StatusNotImplemented
}

func standardMethods() []string {
	return []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect,
		http.MethodOptions, http.MethodTrace,
	}
}

func (s *server) probe(w http.ResponseWriter, r *http.Request, check func() error) {
	if !allowed(w, r) {
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if err := check(); err != nil {
		problem{Type: problemUnhealthy, Title: "Not healthy", Status: http.StatusServiceUnavailable, Detail: err.Error()}.write(w)
		return
	}
	s.writeJSON(w, r, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *server) writeJSON(w http.ResponseWriter, r *http.Request, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		s.Logger.ErrorContext(r.Context(), "answer does not marshal", slog.Any("err", err), slog.String("path", r.URL.Path))
		problem{Type: problemInternal, Title: "Internal error", Status: http.StatusInternalServerError}.write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	send(w, status, append(body, '\n'))
}
