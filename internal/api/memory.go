package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/store"
)

// Memory is a store in the daemon's own memory, as it can be looked at. Nothing can be written to it from outside.
type Memory interface {
	Namespace() string
	Head(ctx context.Context) (fence.Head, bool, error)
	Roster(ctx context.Context) (text []byte, found bool, err error)
	// Names are those of all keys, shard by shard.
	Names(shard int) []string
	Shards() int
	Held(ctx context.Context, names []string) ([]store.Held, error)
}

// MemorySource is whoever may have one. Without one it says why.
type MemorySource interface {
	Memory() (memory Memory, why string)
}

const storePath = "/v1/store"

// namesPerRead bounds what one request for records may ask for.
const namesPerRead = 10_000

// memory answers what commands ask that look at the store themselves, where they cannot: /v1/store has HEAD and how many shards
// there are, /v1/store/roster the roster, /v1/store/names?shard=N names, and POST /v1/store/read what is stored under some.
func (s *server) memory(w http.ResponseWriter, r *http.Request, path string) {
	memory, why := s.Memory.Memory()
	if memory == nil {
		problem{Type: problemNoRoute, Title: "No store in this process's memory", Status: http.StatusNotFound, Detail: why}.write(w)
		return
	}
	switch path {
	case "":
		if !allowed(w, r) {
			return
		}
		head, found, err := memory.Head(r.Context())
		if err != nil {
			s.memoryFailed(w, r, err)
			return
		}
		answer := StoreHead{Namespace: memory.Namespace(), Shards: memory.Shards()}
		if found {
			answer.Head = head.Fields()
		}
		s.writeJSON(w, r, http.StatusOK, answer)
	case "/roster":
		if !allowed(w, r) {
			return
		}
		text, found, err := memory.Roster(r.Context())
		if err != nil {
			s.memoryFailed(w, r, err)
			return
		}
		answer := StoreRoster{}
		if found {
			answer.Roster = text
		}
		s.writeJSON(w, r, http.StatusOK, answer)
	case "/names":
		if !allowed(w, r) {
			return
		}
		shard, err := strconv.Atoi(r.URL.Query().Get("shard"))
		if err != nil || shard < 0 || shard >= memory.Shards() {
			problem{
				Type: problemArguments, Title: "No such shard", Status: http.StatusBadRequest,
				Detail: "shard is a number below " + strconv.Itoa(memory.Shards()) + ".",
			}.write(w)
			return
		}
		s.writeJSON(w, r, http.StatusOK, memory.Names(shard))
	case "/read":
		s.readMemory(w, r, memory)
	default:
		problem{Type: problemNoRoute, Title: "No such resource", Status: http.StatusNotFound}.write(w)
	}
}

// StoreHead answers GET /v1/store.
type StoreHead struct {
	Namespace string   `json:"namespace"`
	Head      []string `json:"head"` // names and values of fields in turn, as docs/redis.md has them; null: there is none
	Shards    int      `json:"shards"`
}

// StoreRoster answers GET /v1/store/roster.
type StoreRoster struct {
	Roster []byte `json:"roster"` // null: there is none
}

// StoreRecord is one of the answers to POST /v1/store/read.
type StoreRecord struct {
	Found bool   `json:"found"`
	Text  []byte `json:"text,omitempty"`
	TTL   int64  `json:"ttl_us,omitempty"`
}

// readMemory takes a JSON array of names, and answers what is stored under them in their order. It is a POST because of what a
// path may hold, and changes nothing.
func (s *server) readMemory(w http.ResponseWriter, r *http.Request, memory Memory) {
	if r.Method != http.MethodPost {
		refuse(w, r, http.MethodPost)
		return
	}
	var names []string
	const longest = 64 << 20
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, longest)).Decode(&names); err != nil || len(names) > namesPerRead {
		problem{
			Type: problemArguments, Title: "Not a list of names", Status: http.StatusBadRequest,
			Detail: "Send a JSON array of at most " + strconv.Itoa(namesPerRead) + " names.",
		}.write(w)
		return
	}
	held, err := memory.Held(r.Context(), names)
	if err != nil {
		s.memoryFailed(w, r, err)
		return
	}
	answer := make([]StoreRecord, len(held))
	for i := range held {
		answer[i] = StoreRecord{Found: held[i].Found, Text: held[i].Text, TTL: held[i].TTL.Microseconds()}
	}
	s.writeJSON(w, r, http.StatusOK, answer)
}

func (s *server) memoryFailed(w http.ResponseWriter, _ *http.Request, err error) {
	problem{Type: problemUnavailable, Title: "The store does not answer", Status: http.StatusServiceUnavailable, Detail: err.Error()}.write(w)
}
