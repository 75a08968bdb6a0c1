package api

import (
	"errors"
	"log/slog"
	"net/http"
)

// ErrNotApplied is wrapped by the error of a Reload that left everything as it was.
var ErrNotApplied = errors.New("the file is not applied, the one before stays in force")

// ErrNotYet is wrapped by the error of one that could not be decided: the database does not answer.
var ErrNotYet = errors.New("the file is not applied yet, the one before stays in force")

// reload answers POST /v1/reload. No page that a browser shows may send it along from elsewhere.
func (s *server) reload(w http.ResponseWriter, r *http.Request) {
	if !changing(w, r) {
		return
	}
	done, err := s.Reload.Reload(r.Context())
	switch {
	case errors.Is(err, ErrNotApplied):
		problem{Type: problemNotApplied, Title: "The file is not applied", Status: http.StatusUnprocessableEntity, Detail: err.Error()}.write(w)
	case errors.Is(err, ErrNotYet):
		problem{Type: problemUnavailable, Title: "The database does not answer", Status: http.StatusServiceUnavailable, Detail: err.Error()}.write(w)
	case err != nil:
		s.Logger.ErrorContext(r.Context(), "reload failed", slog.Any("err", err))
		problem{Type: problemInternal, Title: "Internal error", Status: http.StatusInternalServerError}.write(w)
	default:
		s.writeJSON(w, r, http.StatusOK, done)
	}
}

// changing refuses all but a POST that no page of another origin has sent.
func changing(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		refuse(w, r, http.MethodPost)
		return false
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		problem{Type: problemForeignOrigin, Title: "Sent by a page of another origin", Status: http.StatusForbidden, Detail: err.Error()}.write(w)
		return false
	}
	return true
}
