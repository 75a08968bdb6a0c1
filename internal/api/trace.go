package api

import (
	"context"
	"net/http"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// Tracer says what happened to a key.
type Tracer interface {
	// Named are the parameters of an entry in the order of its key, as far as their types are known; ErrNoEntry when it is not declared. It
	// answers also where the entry cannot be loaded.
	Named(ctx context.Context, entry string) ([]rule.Param, error)
	// Trace answers for arguments in canonical text, one for each parameter of the entry, with a value that marshals to JSON.
	Trace(ctx context.Context, entry string, args []keytext.Arg) (any, error)
}

const tracePath = "/v1/trace/"

// trace answers GET /v1/trace/{entry}/{argument}, and the same with named arguments. It loads nothing.
func (s *server) trace(w http.ResponseWriter, r *http.Request, rest string) {
	if !allowed(w, r) {
		return
	}
	name, path, err := splitPath(rest)
	if err != nil {
		s.problemFor(r.Context(), name, err).write(w)
		return
	}
	params, err := s.Trace.Named(r.Context(), name)
	if err != nil {
		s.problemFor(r.Context(), name, err).write(w)
		return
	}
	args, err := arguments(params, path, r.URL.RawQuery)
	if err != nil {
		s.problemFor(r.Context(), name, err).write(w)
		return
	}
	history, err := s.Trace.Trace(r.Context(), name, args)
	if err != nil {
		s.problemFor(r.Context(), name, err).write(w)
		return
	}
	s.writeJSON(w, r, http.StatusOK, history)
}
