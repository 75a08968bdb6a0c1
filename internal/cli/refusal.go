package cli

import (
	"errors"
	"fmt"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/pgcatalog"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/plan"
)

// refusal is something that the operator has to mend: what, and what to do about it.
type refusal struct{ text, try string }

// refusals finds, in an error that may join several, those that say what to do.
func refusals(err error) []refusal {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself
	case nil:
		return nil
	case *entryError:
		return []refusal{{text: e.text, try: e.refused.Do}}
	case *plan.Error:
		plain := *e
		plain.Do = ""
		return []refusal{{text: plain.Error(), try: e.Do}}
	case *pgcatalog.DisagreementError:
		return []refusal{{text: e.Error(), try: "report this as a bug, with the query: the entry is not cached meanwhile"}}
	case *pgsource.SetupError:
		all := make([]refusal, len(e.Problems))
		for i, p := range e.Problems {
			all[i] = refusal{text: p.What + "\n  why: " + p.Why, try: p.Do}
		}
		return all
	case interface{ Unwrap() []error }:
		var all []refusal
		for _, inner := range e.Unwrap() {
			all = append(all, refusals(inner)...)
		}
		return all
	}
	return refusals(errors.Unwrap(err))
}

// atQuery says in which line of the file the query of a refused entry stands.
func atQuery(c *config.Config, name string, err error) error {
	refused, ok := errors.AsType[*plan.Error](err)
	if !ok {
		return err
	}
	at := c.ErrorAt("entries."+name+".query", "", "")
	if at.Line == 0 {
		return err
	}
	plain := *refused
	plain.Entry, plain.Do = "", ""
	text := plain.Error()
	if refused.Line > 0 {
		text = "query " + text
	}
	return &entryError{text: fmt.Sprintf("%s:%d:%d: entry %s: %s", at.File, at.Line, at.Column, name, text), refused: refused}
}

// entryError is a plan's refusal with its place in the file.
type entryError struct {
	text    string
	refused *plan.Error
}

func (e *entryError) Error() string { return e.text }

func (e *entryError) Unwrap() error { return e.refused }
