package api

import (
	_ "embed"
	"net/http"
)

// openAPI describes everything that is served here; a test holds it against what is.
//
//go:embed openapi.json
var openAPI []byte

// openapi answers GET /v1/openapi.json.
func (s *server) openapi(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	send(w, http.StatusOK, openAPI)
}
