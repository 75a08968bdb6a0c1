package api

import (
	"net/http"

	"github.com/freshet/freshet/internal/page"
)

// page answers a request for one of the page's files, and reports whether it is one. They are served to those who have no token, since the
// page asks for one; nothing in them is secret.
func (s *server) page(w http.ResponseWriter, r *http.Request, path string) bool {
	file, ok := s.files[path]
	if !ok {
		return false
	}
	if !allowed(w, r) {
		return true
	}
	h := w.Header()
	h.Set("Content-Security-Policy", page.Policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	tag := entityTag(file.Body)
	h.Set("ETag", tag)
	switch status := precondition(r.Header, tag); status {
	case http.StatusPreconditionFailed:
		h.Set("Cache-Control", "no-store")
		h.Del("ETag")
		problem{Type: problemPrecondition, Title: "Precondition failed", Status: status, Detail: "The file has none of the entity tags in If-Match."}.write(w)
	case http.StatusNotModified:
		w.WriteHeader(status)
	default:
		h.Set("Content-Type", file.Type)
		send(w, status, file.Body)
	}
	return true
}
