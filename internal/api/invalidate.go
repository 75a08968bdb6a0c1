package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/freshet/freshet/internal/byhand"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// Invalidator invalidates what somebody names.
type Invalidator interface {
	// Invalidate wraps byhand.ErrEntry, byhand.ErrTable, byhand.ErrTag, ErrReadOnly, ErrMayNotWrite and ErrUnavailable.
	Invalidate(ctx context.Context, w *byhand.What, dry bool) (*byhand.Done, error)
}

// What an Invalidator's errors mean besides those of a Reader.
var (
	ErrReadOnly    = errors.New("the database writes no log")
	ErrMayNotWrite = errors.New("the daemon's role may not write into the log")
)

// asked is the body of POST /v1/invalidate.
type asked struct {
	Entry  *string            `json:"entry"`
	Args   *[]json.RawMessage `json:"args"`
	Table  *string            `json:"table"`
	Tag    *string            `json:"tag"`
	All    bool               `json:"all"`
	DryRun bool               `json:"dry_run"`
}

// maxAsked is how long a request's body may be.
const maxAsked = 1 << 20

// invalidate answers POST /v1/invalidate: 200 when it was applied, 202 when it is in the log and still to be.
func (s *server) invalidate(w http.ResponseWriter, r *http.Request) {
	if !changing(w, r) {
		return
	}
	what, dry, err := s.whatOf(r.Context(), http.MaxBytesReader(w, r.Body, maxAsked))
	var done *byhand.Done
	if err == nil {
		done, err = s.Invalidate.Invalidate(r.Context(), what, dry)
	}
	switch {
	case err != nil:
		s.problemOfInvalidate(r.Context(), err).write(w)
	case done.Applied || done.DryRun:
		s.writeJSON(w, r, http.StatusOK, done)
	default:
		s.writeJSON(w, r, http.StatusAccepted, done)
	}
}

// whatOf reads what is to be invalidated.
func (s *server) whatOf(ctx context.Context, body io.Reader) (what *byhand.What, dry bool, err error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, false, fmt.Errorf("read the request: %w", err)
	}
	var a asked
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := cmp.Or(checkText(string(text)), d.Decode(&a)); err != nil {
		return nil, false, &argumentError{detail: fmt.Sprintf("The body is not what is expected: %v.", inJSON(err))}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, false, &argumentError{detail: "Something follows the JSON object."}
	}
	given := 0
	for _, is := range []bool{a.Entry != nil, a.Table != nil, a.Tag != nil, a.All} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, false, &argumentError{detail: `The body names exactly one of "entry" (with "args" for one key of it), "table", "tag", and "all": true.`}
	case a.Args != nil && a.Entry == nil:
		return nil, false, &argumentError{name: "args", detail: `"args" goes with "entry".`}
	case a.Tag != nil:
		if err := rule.CheckTag(*a.Tag); err != nil {
			return nil, false, &argumentError{name: "tag", detail: fmt.Sprintf("The tag cannot be one: %v.", err)}
		}
		return &byhand.What{Scope: intent.OfTags, Tag: *a.Tag}, a.DryRun, nil
	case a.All:
		return &byhand.What{Scope: intent.Everything}, a.DryRun, nil
	case a.Table != nil:
		table, err := byhand.ParseTable(*a.Table)
		if err != nil {
			return nil, false, &argumentError{name: "table", detail: "The table is not a name: write it as NAME or SCHEMA.NAME, without quotes."}
		}
		return &byhand.What{Scope: intent.OfTable, Table: table}, a.DryRun, nil
	case a.Args == nil:
		return &byhand.What{Scope: intent.OfEntry, Entry: *a.Entry}, a.DryRun, nil
	}
	params, err := s.Reader.Params(ctx, *a.Entry)
	if err != nil {
		return nil, false, err
	}
	args, err := jsonArguments(params, *a.Args)
	return &byhand.What{Scope: intent.OfKeys, Entry: *a.Entry, Args: args}, a.DryRun, err
}

// jsonArguments are arguments in the order of the key: a string, or a number or boolean, which stand for their text; null is
// NULL.
func jsonArguments(params []rule.Param, values []json.RawMessage) ([]keytext.Arg, error) {
	if len(values) != len(params) {
		return nil, &argumentError{detail: fmt.Sprintf("There are %d arguments and %d parameters (%s).", len(values), len(params), describe(params))}
	}
	args := make([]keytext.Arg, len(params))
	for i, p := range params {
		d := json.NewDecoder(bytes.NewReader(values[i]))
		d.UseNumber()
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, &argumentError{name: p.Name, detail: fmt.Sprintf("Parameter %q: %v.", p.Name, inJSON(err))}
		}
		var text string
		switch v := value.(type) {
		case nil:
			args[i] = keytext.Arg{Null: true}
			continue
		case string:
			text = v
		case json.Number:
			text = v.String()
		case bool:
			text = strconv.FormatBool(v)
		default:
			return nil, &argumentError{name: p.Name, detail: fmt.Sprintf("Parameter %q: a list or an object; an array is a string such as \"{1,2}\".", p.Name)}
		}
		var err error
		if args[i], err = argument(p, text); err != nil {
			return nil, err
		}
	}
	return args, nil
}

func (s *server) problemOfInvalidate(ctx context.Context, err error) problem {
	tooLong := &http.MaxBytesError{}
	switch {
	case errors.As(err, &tooLong):
		return problem{
			Type: problemTooLong, Title: "Body too long", Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("The body has more than %d bytes.", tooLong.Limit),
		}
	case errors.Is(err, byhand.ErrEntry), errors.Is(err, ErrNoEntry):
		return problem{Type: problemNoEntry, Title: "Entry not declared", Status: http.StatusNotFound, Detail: "The configuration declares no such entry."}
	case errors.Is(err, byhand.ErrTable):
		return problem{Type: problemNoTable, Title: "Table not read", Status: http.StatusNotFound, Detail: "No entry reads this table: nothing that is cached comes from it."}
	case errors.Is(err, byhand.ErrTag):
		return problem{Type: problemNoTag, Title: "No tags", Status: http.StatusNotFound, Detail: "No entry has tags: by_hand: nothing that is cached is tied to a tag."}
	case errors.Is(err, ErrReadOnly):
		return problem{
			Type: problemNotWritten, Title: "Not invalidated", Status: http.StatusServiceUnavailable,
			Detail: "The database is a standby at present. What is invalidated by hand goes through its log, which only a primary writes.",
		}
	case errors.Is(err, ErrMayNotWrite):
		return problem{
			Type: problemNotWritten, Title: "Not invalidated", Status: http.StatusInternalServerError,
			Detail: "The daemon's role may not write into the log: GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea) to it.",
		}
	}
	p := s.problemFor(ctx, "", err)
	switch p.Type {
	case problemUnavailable:
		p.Detail = "The database, through whose log it goes, does not answer now. It is not known whether it was invalidated: ask again."
	case problemLoad:
		p = problem{Type: problemNotWritten, Title: "Not invalidated", Status: http.StatusInternalServerError, Detail: "The daemon's log says why."}
		s.Logger.ErrorContext(ctx, "invalidation by hand failed", slog.Any("err", err))
	}
	return p
}
