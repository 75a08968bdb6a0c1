package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// What a Reader's errors mean to a client. An error that is none of these is a load that failed.
var (
	ErrNoEntry     = errors.New("the entry is not declared")
	ErrByCode      = errors.New("the entry is loaded by application code")
	ErrNotJSON     = errors.New("the cached value is no JSON")
	ErrUnavailable = errors.New("neither the cache nor the database answers")
	ErrArgument    = errors.New("the database refuses an argument")
	ErrNotReached  = errors.New("the database does not show the transaction of the token")
	ErrForeign     = errors.New("the token is of another database")
)

// entry answers a read of an entry.
func (s *server) entry(w http.ResponseWriter, r *http.Request, rest string) {
	began := time.Now()
	outcome := s.readEntry(w, r, rest)
	s.Metrics.observe(outcome, time.Since(began))
}

// outcome is what the metrics learn of a request. The entry is empty unless it is declared, so that a client cannot
// make up label values.
type outcome struct {
	entry, status string
	code          int
}

func (s *server) readEntry(w http.ResponseWriter, r *http.Request, rest string) outcome {
	fail := func(entry string, p problem) outcome {
		p.write(w)
		return outcome{entry: entry, code: p.Status}
	}
	if !allowed(w, r) {
		return outcome{code: refusalOf(r.Method)}
	}
	demand, bad := demandOf(r.Header)
	if bad != nil {
		return fail("", *bad)
	}
	name, path, err := splitPath(rest)
	if err != nil {
		return fail("", s.problemFor(r.Context(), name, err))
	}
	params, err := s.Reader.Params(r.Context(), name)
	if err != nil {
		return fail("", s.problemFor(r.Context(), name, err))
	}
	args, err := arguments(params, path, r.URL.RawQuery)
	if err == nil {
		err = checkLength(args)
	}
	if err != nil {
		return fail(name, s.problemFor(r.Context(), name, err))
	}
	value, err := s.Reader.Read(r.Context(), name, args, demand)
	if err != nil {
		return fail(name, s.problemFor(r.Context(), name, err))
	}
	return s.answer(w, r, name, value, value.Payload)
}

// problemFor says what an error means to the client. The text of errors from the database stays in the log.
func (s *server) problemFor(ctx context.Context, name string, err error) problem {
	if bad, ok := errors.AsType[*argumentError](err); ok {
		return problem{
			Type: problemArguments, Title: "Invalid arguments", Status: http.StatusBadRequest,
			Detail: bad.detail, Entry: name, Argument: bad.name,
		}
	}
	switch {
	case errors.Is(err, ErrNoEntry):
		return problem{
			Type: problemNoEntry, Title: "Entry not declared", Status: http.StatusNotFound, Entry: name,
			Detail: "The configuration declares no such entry.",
		}
	case errors.Is(err, ErrByCode):
		return problem{
			Type: problemByCode, Title: "Entry loaded by code", Status: http.StatusNotFound, Entry: name,
			Detail: "Only the applications that load the entry can load it, and its value is not cached, or a cached one was not asked for.",
		}
	case errors.Is(err, ErrArgument):
		return problem{
			Type: problemArguments, Title: "Invalid arguments", Status: http.StatusBadRequest, Entry: name,
			Detail: "The database refuses an argument as not of its type.",
		}
	case errors.Is(err, ErrNotReached):
		return problem{
			Type: problemNotReached, Title: "Token not reached", Status: http.StatusPreconditionFailed, Entry: name,
			Detail: "The database did not show the transaction of Freshet-After in time: it is not committed, or hangs in synchronous replication.",
		}
	case errors.Is(err, ErrForeign):
		return problem{
			Type: problemToken, Title: "Token of another database", Status: http.StatusBadRequest, Entry: name,
			Detail: "The token in Freshet-After was made in another database cluster than the one that is read here.",
		}
	}
	if ctx.Err() == nil { // otherwise it is the client who went away
		s.Logger.WarnContext(ctx, "read failed", slog.String("entry", name), slog.Any("err", err))
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return problem{
			Type: problemUnavailable, Title: "Unavailable", Status: http.StatusServiceUnavailable, Entry: name,
			Detail: "Neither the cache nor the database can answer now.",
		}
	}
	if errors.Is(err, ErrNotJSON) {
		return problem{
			Type: problemNotJSON, Title: "Not JSON", Status: http.StatusInternalServerError, Entry: name,
			Detail: "What an application has stored as JSON for these arguments is none. Correct the program that writes it, and invalidate the key.",
		}
	}
	return problem{
		Type: problemLoad, Title: "Load failed", Status: http.StatusInternalServerError, Entry: name,
		Detail: "The entry could not be loaded; the daemon's log says why.",
	}
}

// answer answers with a value, whose payload is given in one piece or several.
func (s *server) answer(w http.ResponseWriter, r *http.Request, name string, v Value, payload ...[]byte) outcome {
	h := w.Header()
	h.Set("Cache-Control", cmp.Or(v.CacheControl, "private, no-cache"))
	h.Set("Vary", tokenHeader) // one that asks for a later write is answered with another value
	h.Set("Freshet-Status", v.Status)
	age := time.Duration(0)
	if !v.Filled.IsZero() {
		age = max(0, time.Since(v.Filled))
	}
	h.Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
	done := outcome{entry: name, status: v.Status, code: http.StatusOK}
	if !v.Found {
		done.code = http.StatusNotFound
		problem{
			Type: problemNoRow, Title: "Row not found", Status: done.code, Entry: name,
			Detail: "There is no row for these arguments.",
		}.write(w)
		return done
	}
	tag := entityTag(payload...)
	switch done.code = precondition(r.Header, tag); done.code {
	case http.StatusPreconditionFailed:
		h.Set("Cache-Control", "no-store") // an answer to this request alone, however long the value may be kept
		problem{
			Type: problemPrecondition, Title: "Precondition failed", Status: done.code, Entry: name,
			Detail: "The value has none of the entity tags in If-Match.",
		}.write(w)
		return done
	case http.StatusNotModified:
		// All that 200 would say about caching goes along, and nothing about the representation but its tag (RFC 9110, 15.4.5).
		h.Set("ETag", tag)
		w.WriteHeader(done.code)
		return done
	}
	h.Set("ETag", tag)
	h.Set("Content-Type", "application/json")
	send(w, done.code, payload...)
	return done
}
