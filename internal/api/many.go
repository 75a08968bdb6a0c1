package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

const manyPath = "/v1/many/"

// maxMany is how many keys one request may ask for: their values are all in memory before the first is sent.
const maxMany = 500

// maxAnswer is how many bytes the values of one answer may have together. One that is asked for several times is in memory once, and is sent
// as often; and a problem that has what could be read is made whole.
const maxAnswer = 64 << 20

// statusMany is what the metrics call a request for many values, whose statuses may differ.
const statusMany = "many"

// many answers a read of many values of an entry: an array in the order asked, null where there is none. One that cannot be read
// fails the whole: null would be taken for "there is none".
func (s *server) many(w http.ResponseWriter, r *http.Request, rest string) {
	began := time.Now()
	outcome := s.readMany(w, r, rest)
	s.Metrics.observe(outcome, time.Since(began))
}

func (s *server) readMany(w http.ResponseWriter, r *http.Request, rest string) outcome {
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
	if err == nil && len(path) > 0 {
		err = &argumentError{detail: "The keys are in the query of the URL, as k=[argument], and not in the path."}
	}
	if err != nil {
		return fail("", s.problemFor(r.Context(), name, err))
	}
	params, err := s.Reader.Params(r.Context(), name)
	if err != nil {
		return fail("", s.problemFor(r.Context(), name, err))
	}
	keys, err := keysOf(params, r.URL.RawQuery)
	if err != nil {
		return fail(name, s.problemFor(r.Context(), name, err))
	}
	values, errs := s.Reader.ReadMany(r.Context(), name, keys, demand)
	if p := tooLong(name, values); p != nil {
		return fail(name, *p)
	}
	if p := s.partly(r.Context(), name, values, errs); p != nil {
		return fail(name, *p)
	}
	whole, body := together(values)
	done := s.answer(w, r, name, whole, body...)
	done.status = statusMany
	return done
}

// tooLong is the problem of values that are too long for one answer, and nil of others.
func tooLong(name string, values []Value) *problem {
	length := 0
	for i := range values {
		if length += len(values[i].Payload); length > maxAnswer {
			return &problem{
				Type: problemAnswerTooLong, Title: "Answer too long", Status: http.StatusRequestEntityTooLarge, Entry: name, Argument: place(i),
				Detail: fmt.Sprintf("The values have more than %d bytes together, which are the most that one answer has: those before this key's fit. Ask for fewer keys at once, or for one under /v1/entries.", maxAnswer),
			}
		}
	}
	return nil
}

// partly is the problem of a request of which not every key could be read: that of the first one, with what was read besides. It is nil when
// all were.
func (s *server) partly(ctx context.Context, name string, values []Value, errs []error) *problem {
	var first *problem
	once := &server{Options: s.Options} // the log has the first
	once.Logger = slog.New(slog.DiscardHandler)
	read := 0
	all := make([]json.RawMessage, len(values))
	var failed []failure
	for i, err := range errs {
		all[i] = json.RawMessage("null")
		if err == nil {
			read++
			if values[i].Found {
				all[i] = values[i].Payload
			}
			continue
		}
		by := once
		if first == nil {
			by = s
		}
		p := by.problemFor(ctx, name, err)
		failed = append(failed, failure{Argument: place(i), Type: p.Type, Status: p.Status, Detail: p.Detail})
		if first == nil {
			p.Argument = place(i)
			first = &p
		}
	}
	if first != nil && read > 0 {
		first.Values, first.Errors = all, failed
	}
	return first
}

// place names a key of a request, counted from 1.
func place(i int) string { return "k[" + strconv.Itoa(i+1) + "]" }

// together is one value of many: the array of them, as old as the oldest. Its status says how many have which. Its payload is in pieces: the
// values are not copied.
func together(values []Value) (all Value, body [][]byte) {
	all = Value{Found: true, CacheControl: values[0].CacheControl}
	before, null := []byte("["), []byte("null")
	counts := map[string]int{}
	for i := range values {
		v := &values[i]
		body = append(body, before)
		before = []byte(",")
		if v.Found {
			body = append(body, v.Payload)
		} else {
			body = append(body, null)
		}
		counts[v.Status]++
		if v.CacheControl == "" { // of one that is stale
			all.CacheControl = ""
		}
		if !v.Filled.IsZero() && (all.Filled.IsZero() || v.Filled.Before(all.Filled)) {
			all.Filled = v.Filled
		}
	}
	body = append(body, []byte("]"))
	statuses := make([]string, 0, len(counts))
	for status, n := range counts {
		statuses = append(statuses, status+"="+strconv.Itoa(n))
	}
	slices.Sort(statuses)
	all.Status = strings.Join(statuses, ", ")
	return all, body
}

// keysOf reads the keys of a request: each k is a JSON array of arguments.
func keysOf(params []rule.Param, rawQuery string) ([][]keytext.Arg, error) {
	named, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, &argumentError{detail: fmt.Sprintf("The query of the URL does not parse: %v.", err)}
	}
	for name := range named {
		if name != "k" {
			return nil, &argumentError{name: name, detail: fmt.Sprintf("There is no parameter %q: each key is k=[argument].", name)}
		}
	}
	given := named["k"]
	switch {
	case len(given) == 0:
		return nil, &argumentError{name: "k", detail: fmt.Sprintf("No key is given: each is k=[argument], for the parameters %s.", describe(params))}
	case len(given) > maxMany:
		return nil, &argumentError{name: "k", detail: fmt.Sprintf("%d keys are given, and %d are the most that one request may ask for.", len(given), maxMany)}
	}
	keys := make([][]keytext.Arg, len(given))
	for i, text := range given {
		if keys[i], err = keyOf(params, text); err == nil {
			err = checkLength(keys[i])
		}
		if err != nil {
			return nil, &argumentError{name: place(i), detail: fmt.Sprintf("Key %d of %d: %v", i+1, len(given), err)}
		}
	}
	return keys, nil
}

// keyOf reads one key.
func keyOf(params []rule.Param, text string) ([]keytext.Arg, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber() // as it is written: a float would round it
	var values []any
	err := checkText(text)
	if err == nil {
		err = decoder.Decode(&values)
	}
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something comes after it")
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("it is not a JSON array of arguments: %w.", inJSON(err)) //nolint:revive,staticcheck // a sentence of a problem
	case values == nil:
		return nil, errors.New("it is null, and not a JSON array of arguments.") //nolint:revive,staticcheck // likewise
	case len(values) != len(params):
		return nil, fmt.Errorf("it has %d arguments, and there are %d parameters (%s).", len(values), len(params), describe(params)) //nolint:revive,staticcheck // likewise
	}
	args := make([]keytext.Arg, len(params))
	for i, v := range values {
		if v == nil {
			args[i].Null = true
			continue
		}
		text, err := textOf(v)
		if err == nil {
			args[i], err = argument(params[i], text)
		} else {
			err = fmt.Errorf("Parameter %q: %w.", params[i].Name, err) //nolint:revive,staticcheck // likewise
		}
		if err != nil {
			return nil, err
		}
	}
	return args, nil
}

// textOf is the text that PostgreSQL has for a value of JSON.
func textOf(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	case []any:
		elements := make([]string, len(v))
		for i, element := range v {
			if element == nil {
				elements[i] = "NULL"
				continue
			}
			if _, nested := element.([]any); nested {
				return "", errors.New("an array of arrays is no argument")
			}
			text, err := textOf(element)
			if err != nil {
				return "", err
			}
			elements[i] = `"` + escapeElement.Replace(text) + `"`
		}
		return "{" + strings.Join(elements, ",") + "}", nil
	}
	return "", errors.New("an object is no argument; write the value's text")
}

var escapeElement = strings.NewReplacer(`\`, `\\`, `"`, `\"`) //nolint:gochecknoglobals // never changed, and safe for all
