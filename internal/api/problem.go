package api

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// The types of problems, stable for programs: docs/json.md lists them.
const (
	problemNoEntry       = "urn:freshet:problem:entry-not-declared"
	problemNoRow         = "urn:freshet:problem:row-not-found"
	problemArguments     = "urn:freshet:problem:invalid-arguments"
	problemByCode        = "urn:freshet:problem:entry-loaded-by-code"
	problemUnavailable   = "urn:freshet:problem:unavailable"
	problemLoad          = "urn:freshet:problem:load-failed"
	problemNotJSON       = "urn:freshet:problem:value-not-json"
	problemToken         = "urn:freshet:problem:invalid-token" //nolint:gosec // a name, no secret
	problemNotReached    = "urn:freshet:problem:token-not-reached"
	problemPrecondition  = "urn:freshet:problem:precondition-failed"
	problemUnauthorized  = "urn:freshet:problem:unauthorized"
	problemMethod        = "urn:freshet:problem:method-not-allowed"
	problemUnknownMethod = "urn:freshet:problem:method-not-implemented"
	problemNoRoute       = "urn:freshet:problem:no-such-resource"
	problemUnhealthy     = "urn:freshet:problem:unhealthy"
	problemNotApplied    = "urn:freshet:problem:file-not-applied"
	problemForeignOrigin = "urn:freshet:problem:foreign-origin"
	problemForeignHost   = "urn:freshet:problem:foreign-host"
	problemNoTable       = "urn:freshet:problem:table-not-read"
	problemNoTag         = "urn:freshet:problem:no-tags"
	problemTooLong       = "urn:freshet:problem:body-too-long"
	problemAnswerTooLong = "urn:freshet:problem:answer-too-long"
	problemNotWritten    = "urn:freshet:problem:not-invalidated"
	problemInternal      = "urn:freshet:problem:internal"
)

// retryAfter is how many seconds a client waits after 503.
const retryAfter = "1"

// problem is the body of an error (RFC 9457).
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Entry    string `json:"entry,omitempty"`
	Argument string `json:"argument,omitempty"`
	// Values are those of the keys of a request for many that could be read, in its order, and null for the others; Errors say which are
	// not there because they could not be read.
	Values []json.RawMessage `json:"values,omitempty"`
	Errors []failure         `json:"errors,omitempty"`
}

// failure is why one of many keys could not be read.
type failure struct {
	Argument string `json:"argument"`
	Type     string `json:"type"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
}

func (p problem) write(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil { // among the values is one that is no JSON; all else is strings and numbers
		p.Values, p.Errors = nil, nil
		body, _ = json.Marshal(p) //nolint:errchkjson // without Values, of which there are none now, it cannot fail
	}
	w.Header().Set("Content-Type", "application/problem+json")
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	send(w, p.Status, append(body, '\n'))
}

// send writes a whole answer, whose body is given in one piece or several. The server itself leaves the body out of an answer to HEAD.
func send(w http.ResponseWriter, status int, body ...[]byte) {
	length := 0
	for _, piece := range body {
		length += len(piece)
	}
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(status)
	for _, piece := range body {
		if _, err := w.Write(piece); err != nil { //nolint:gosec // JSON or a file of the page, with its type, and nosniff
			return // the client is gone: nobody is left to tell
		}
	}
}
