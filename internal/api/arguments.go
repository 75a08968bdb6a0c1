package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// argumentError says what is wrong with the arguments of a request.
type argumentError struct {
	name   string // of the parameter; empty when it is about all of them
	detail string
}

func (e *argumentError) Error() string { return e.detail }

// splitPath takes the entry's name and the arguments from the rest of the path: "e/a//b%2Fc" is e with a, an empty
// one and b/c.
func splitPath(rest string) (entry string, args []string, err error) {
	parts := strings.Split(rest, "/")
	for i, part := range parts {
		text, err := url.PathUnescape(part)
		if err != nil {
			return "", nil, &argumentError{detail: fmt.Sprintf("The path is not percent-encoded correctly: %v.", err)}
		}
		parts[i] = text
	}
	return parts[0], parts[1:], nil
}

// arguments are those of the path, in the order of the key, or those of the query, by name; a name that is absent is
// NULL. All are in canonical text, so that every spelling of a value reads the same key.
func arguments(params []rule.Param, path []string, rawQuery string) ([]keytext.Arg, error) {
	named, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, &argumentError{detail: fmt.Sprintf("The query of the URL does not parse: %v.", err)}
	}
	if len(path) > 0 {
		if len(named) > 0 {
			return nil, &argumentError{detail: "Arguments stand either in the path or in the query of the URL, not in both."}
		}
		if len(path) != len(params) {
			return nil, &argumentError{detail: fmt.Sprintf("There are %d arguments and %d parameters (%s).", len(path), len(params), describe(params))}
		}
		args := make([]keytext.Arg, len(params))
		for i, p := range params {
			if args[i], err = argument(p, path[i]); err != nil {
				return nil, err
			}
		}
		return args, nil
	}
	for name, values := range named {
		known := slices.ContainsFunc(params, func(p rule.Param) bool { return p.Name == name })
		switch {
		case !known:
			return nil, &argumentError{name: name, detail: fmt.Sprintf("There is no parameter %q; there are %d (%s).", name, len(params), describe(params))}
		case len(values) > 1:
			return nil, &argumentError{name: name, detail: fmt.Sprintf("Parameter %q is given %d times.", name, len(values))}
		}
	}
	args := make([]keytext.Arg, len(params))
	for i, p := range params {
		values, given := named[p.Name]
		if !given {
			args[i] = keytext.Arg{Null: true}
			continue
		}
		if args[i], err = argument(p, values[0]); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// maxKey is how many bytes the arguments of one key may have together. Each key that is read becomes a record of that name, also where there is
// no such row.
const maxKey = 8 << 10

// checkLength refuses arguments that would make a key too long.
func checkLength(args []keytext.Arg) error {
	length := 0
	for _, a := range args {
		length += len(a.Text)
	}
	if length > maxKey {
		return &argumentError{detail: fmt.Sprintf("The arguments of the key have %d bytes together, and %d are the most that a key may have here.", length, maxKey)}
	}
	return nil
}

func argument(p rule.Param, text string) (keytext.Arg, error) {
	canonical, err := keytext.Canonical(p.Type, text)
	if err != nil {
		return keytext.Arg{}, &argumentError{name: p.Name, detail: fmt.Sprintf("Parameter %q: %v.", p.Name, err)}
	}
	return keytext.Arg{Text: canonical}, nil
}

// describe lists parameters for a reader: "id int8, lang text".
func describe(params []rule.Param) string {
	parts := make([]string, len(params))
	for i, p := range params {
		parts[i] = p.Name + " " + string(p.Type)
	}
	return strings.Join(parts, ", ")
}
