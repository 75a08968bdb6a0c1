package verify

import (
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, glob, key string
		want               []string // nil: no match
	}{
		{"user:{id}", "user:*", "user:42", []string{"42"}},
		{"user:{id}", "user:*", "user:a b:c", []string{"a b:c"}},
		{"user:{id}", "user:*", "users:42", nil},
		{"user:{id}:profile", "user:*:profile", "user:7:profile", []string{"7"}},
		{"user:{id}:profile", "user:*:profile", "user:7:profiles", nil},
		{"user:{id}:profile", "user:*:profile", "user:7:profile:profile", []string{"7:profile"}},
		{"{a}-{b}", "*-*", "1-2-3", []string{"1", "2-3"}},
		{"{a}::{b}:x", "*::*:x", "1:2::3:x", []string{"1:2", "3"}},
		{"{a}/{b}", "*/*", "1", nil},
		{"{{user:{id}}}", "{user:*}", "{user:7}", []string{"7"}},
		{"all?[x]*^\\", `all\?\[x\]\*\^\\`, "all?[x]*^\\", []string{}},
		{"all", "all", "all2", nil},
	}
	for _, tt := range tests {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Errorf("ParsePattern(%q) error = %v", tt.pattern, err)
			continue
		}
		if got := p.Glob(); got != tt.glob {
			t.Errorf("pattern %q: Glob() = %q, want %q", tt.pattern, got, tt.glob)
		}
		if got, ok := p.Match(tt.key); ok != (tt.want != nil) || ok && !slices.Equal(got, tt.want) {
			t.Errorf("pattern %q: Match(%q) = %q, %t, want %q", tt.pattern, tt.key, got, ok, tt.want)
		}
	}
	for pattern, want := range map[string]string{
		"": "empty", "{": "unmatched {", "a}": "unmatched }", "{}": "a name in braces", "{1}": "a name in braces",
		"{a}{b}": "something between", "{a}:{a}": "appears twice", "{a b}": "a name in braces",
	} {
		if _, err := ParsePattern(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePattern(%q) error = %v, want %q in it", pattern, err, want)
		}
	}
}

func TestShapeSame(t *testing.T) {
	t.Parallel()
	whole := shape{format: JSON}
	tests := []struct {
		name   string
		s      shape
		cached string
		row    string // empty: there is none
		want   bool
	}{
		{"the same", whole, `{"id":1,"n":"a"}`, `{"id":1,"n":"a"}`, true},
		{"another order and spacing", whole, `{ "n": "\u0061", "id": 1 }`, `{"id":1,"n":"a"}`, true},
		{"a number written otherwise", whole, `{"p":19.9}`, `{"p":19.90}`, true},
		{"a number and a text", whole, `{"p":"19.90"}`, `{"p":19.90}`, false},
		{"another number", whole, `{"p":9007199254740993}`, `{"p":9007199254740992}`, false},
		{"a field more", whole, `{"id":1,"n":"a"}`, `{"id":1}`, false},
		{"a field less", whole, `{"id":1}`, `{"id":1,"n":null}`, false},
		{"null is no row", whole, `null`, "", true},
		{"a value, and no row", whole, `{"id":1}`, "", false},
		{"no value, and a row", whole, `null`, `{"id":1}`, false},
		{"truth values", whole, `{"a":true}`, `{"a":true}`, true},
		{"other truth values", whole, `{"a":true}`, `{"a":false}`, false},
		{"ignored", shape{format: JSON, ignore: []string{"at", "x"}}, `{"id":1,"at":5}`, `{"id":1,"x":2}`, true},
		{"ignored in a list", shape{format: JSON, ignore: []string{"at"}}, `[{"id":1,"at":5}]`, `[{"id":1}]`, true},
		{"one column", shape{format: JSON, field: "doc"}, `[1,2]`, `{"id":1,"doc":[1,2]}`, true},
		{"one column, wrong", shape{format: JSON, field: "doc"}, `[1,3]`, `{"id":1,"doc":[1,2]}`, false},
		{"lists have an order", whole, `[1,2]`, `[2,1]`, false},
		{"unless they have none", shape{format: JSON, bag: true}, `[{"a":1.0,"b":2},{"a":3}]`, `[{"a":3},{"b":2,"a":1}]`, true},
		{"a row twice", shape{format: JSON, bag: true}, `[1,1]`, `[1,2]`, false},
		{"a row more", shape{format: JSON, bag: true}, `[1,1]`, `[1]`, false},
		{"text", shape{format: Text, field: "n"}, `a`, `{"id":1,"n":"a"}`, true},
		{"text of a number", shape{format: Text}, `19.90`, `{"p":19.90}`, true},
		{"text of another number", shape{format: Text}, `19.9`, `{"p":19.90}`, false},
		{"text of NULL", shape{format: Text}, ``, `{"p":null}`, true},
		{"text, and no row", shape{format: Text}, ``, ``, false},
		{"a hash", shape{format: Hash}, `{"id":"1","p":"19.90"}`, `{"id":1,"p":19.90,"n":null}`, true},
		{"a hash with another value", shape{format: Hash}, `{"id":"1","p":"19.9"}`, `{"id":1,"p":19.90}`, false},
		{"a hash with a field more", shape{format: Hash}, `{"id":"1","at":"now"}`, `{"id":1}`, false},
		{"a hash with a field that is ignored", shape{format: Hash, ignore: []string{"at"}}, `{"id":"1","at":"now"}`, `{"id":1}`, true},
		{"a hash, and no row", shape{format: Hash}, `{"id":"1"}`, ``, false},
		{"text of a truth value", shape{format: Text}, `true`, `{"p":true}`, true},
	}
	for _, tt := range tests {
		got, err := tt.s.same(tt.cached, tt.row != "", []byte(tt.row))
		if err != nil || got != tt.want {
			t.Errorf("%s: same(%s, %s) = %t, %v, want %t", tt.name, tt.cached, tt.row, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		s           shape
		cached, row string
	}{
		{whole, `{"id":`, `{"id":1}`},
		{whole, `{} {}`, `{}`},
		{whole, "\x1f\x8b", `{}`},
		{shape{format: JSON, field: "x"}, `1`, `{"id":1}`},
		{shape{format: Text}, `1`, `{"id":1,"n":2}`},
		{shape{format: Text}, `[1]`, `{"list":[1]}`},
		{shape{format: Hash}, `{"list":"[1]"}`, `{"list":[1]}`},
	} {
		if same, err := tt.s.same(tt.cached, true, []byte(tt.row)); err == nil || same {
			t.Errorf("%+v: same(%q, %q) = %t without an error", tt.s, tt.cached, tt.row, same)
		}
	}
}

// TestWorth compares numbers with what they are as fractions.
func TestWorth(t *testing.T) {
	t.Parallel()
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?`)
	equal := 0
	rapid.Check(t, func(t *rapid.T) {
		a := number.Draw(t, "a")
		b := rapid.OneOf(number, rapid.SampledFrom([]string{a + "0", strings.Replace(a, ".", "0.", 1), "0" + a, "-" + a, a + "e0", a + ".0"})).Draw(t, "b")
		if !json.Valid([]byte(b)) {
			return
		}
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		if got, want := worth(json.Number(a)) == worth(json.Number(b)), x.Cmp(y) == 0; got != want {
			t.Fatalf("worth(%s) = %s, worth(%s) = %s: equal is %t, want %t", a, worth(json.Number(a)), b, worth(json.Number(b)), got, want)
		} else if want && a != b {
			equal++
		}
	})
	if equal == 0 {
		t.Error("no two spellings of one number were compared")
	}
	if a, b := worth("1e999999999999999999999"), worth("1e999999999999999999998"); a == b {
		t.Errorf("worth() = %s for both", a)
	}
}
