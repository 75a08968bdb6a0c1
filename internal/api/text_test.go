package api

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestWordsAreOurOwn: what is wrong with JSON is said in its words, to people who do not know what this program is written in.
func TestWordsAreOurOwn(t *testing.T) {
	t.Parallel()
	b := start(t)
	foreign := regexp.MustCompile(`json: |Go |interface|struct|EOF|invalid character|float64|\[\]`)
	said := func(what string, got answer, want string) {
		t.Helper()
		_, detail, _ := strings.Cut(got.body, `"detail":`)
		detail, _, _ = strings.Cut(detail, `","`)
		if got.code != http.StatusBadRequest || !strings.Contains(detail, want) || foreign.MatchString(detail) {
			t.Errorf("%s: %d %s, want %q in the project's own words", what, got.code, got.body, want)
		}
	}
	for key, want := range map[string]string{
		"7":        "it is of kind number",
		`"7"`:      "it is of kind string",
		"true":     "it is of kind bool",
		`{"a":7}`:  "it is of kind object",
		"":         "it is empty",
		"[7":       "it ends too early",
		"[7,]":     "it is no JSON from byte 4 on",
		"[07]":     "it is no JSON from byte 3 on",
		"seven":    "it is no JSON from byte 1 on",
		"[7] more": "something comes after it",
	} {
		said(key, b.do(t, "GET", manyOf("product", key)), want)
	}
	for body, want := range map[string]string{
		"7":                              "it is of kind number",
		"[7]":                            "it is of kind array",
		`{"entry":7}`:                    `\"entry\" is of kind number`,
		`{"entry":"product","args":"7"}`: `\"args\" is of kind string`,
		`{"all":1}`:                      `\"all\" is of kind number`,
		`{"al":true}`:                    `there is no field \"al\"`,
		"":                               "it is empty",
		`{"all"`:                         "it ends too early",
		`{"all":true,}`:                  "it is no JSON from byte 13 on",
		"{\"tag\":\"\xff\"}":             "it is not UTF-8",
	} {
		said(body, b.post(t, "/v1/invalidate", body), want)
	}
}
