package sqlparam

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRewrite(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, query, want string }{
		{"plain", "SELECT * FROM t WHERE id = @id", "SELECT * FROM t WHERE id = $1"},
		{"no space before", "SELECT * FROM t WHERE id=@id", "SELECT * FROM t WHERE id=$1"},
		{"twice and in any order", "x = @b AND y = @id AND z = @b", "x = $2 AND y = $1 AND z = $2"},
		{"comparison operators", "a<=@id a>=@id a<>@id a!=@id a>@id a||@id a->@id a->>@id", "a<=$1 a>=$1 a<>$1 a!=$1 a>$1 a||$1 a->$1 a->>$1"},
		{"cast", "@id::bigint", "$1::bigint"},
		{"in a list", "x IN (@id,@b)", "x IN ($1,$2)"},
		{"after a keyword", "SELECT@id", "SELECT $1"},
		{"operators stay", "a <@ b a @> b a @@ b a<@b a @@b a @@@b a @-@b a ^@b", "a <@ b a @> b a @@ b a<@b a @@b a @@@b a @-@b a ^@b"},
		{"an operator and a parameter", "a @>@id", "a @>$1"},
		{"before a constant", `@e'\'@id' @b'1' @u&'@id' @u&"@id" @b`, `@e'\'@id' @b'1' @u&'@id' @u&"@id" $2`},
		{"after an assignment", "a:=@id :=@@id ::=@@id", "a:=$1 :=@@id ::=@$1"},
		{"a lone @ is abs", "@ id @(id) @-5", "@ id @(id) @-5"},
		{"string", "'@id' @id", "'@id' $1"},
		{"doubled quote", "'it''s @id' @id", "'it''s @id' $1"},
		{"a backslash is itself", `'\' @id`, `'\' $1`},
		{"escape string", `E'\'@id' e'\\' @id`, `E'\'@id' e'\\' $1`},
		{"E ends an identifier", `nameE'\' @id`, `nameE'\' $1`},
		{"escape string goes on in the next line", "E'a' -- '\n '\\'@id' @id", "E'a' -- '\n '\\'@id' $1"},
		{"a string that does not go on", "'a' '\\' @id", "'a' '\\' $1"},
		{"prefixed strings", "U&'@id' B'@id' x'@id' N'@id' @id", "U&'@id' B'@id' x'@id' N'@id' $1"},
		{"quoted identifier", `"@id" U&"@id" "a""@id" @id`, `"@id" U&"@id" "a""@id" $1`},
		{"line comment", "1 -- @id '\n, @id", "1 -- @id '\n, $1"},
		{"an operator ends before a comment", "1=--@id\n@id =/*@b*/@b", "1=--@id\n$1 =/*@b*/$2"},
		{"nested comment", "/* /* @id */ ' @id */ @id", "/* /* @id */ ' @id */ $1"},
		{"dollar quotes", "$$@id$$ $a$ $$ @id $b$ $a$ @id", "$$@id$$ $a$ $$ @id $b$ $a$ $1"},
		{"dollar within an identifier", "a$b$@id", "a$b$ $1"},
		{"number", "1e5 1E'@id' 0x1F 1.5e-3 @id", "1e5 1E'@id' 0x1F 1.5e-3 $1"},
		{"unterminated string", "@id 'a@id", "$1 'a@id"},
		{"unterminated comment", "@id /* /* */ @id", "$1 /* /* */ @id"},
		{"unterminated dollar quote", "@id $a$ @id $b$", "$1 $a$ @id $b$"},
		{"at the end", "@", "@"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Rewrite(tt.query, []string{"id", "b"})
			if err != nil {
				t.Fatalf("Rewrite(%q): %v", tt.query, err)
			}
			if got.SQL != tt.want {
				t.Errorf("Rewrite(%q) = %q, want %q", tt.query, got.SQL, tt.want)
			}
		})
	}
}

func TestRewriteUsed(t *testing.T) {
	t.Parallel()
	got, err := Rewrite("@c @a @c", []string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "c"}, got.Used); diff != "" {
		t.Errorf("Used (-want +got):\n%s", diff)
	}
}

func TestRewriteRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, query string
		offset      int
		want        string
	}{
		{"undeclared", "SELECT 1 WHERE a = @lang", 19, "parameter {lang} is used in the query but not in the key: two results would share one key. Add {lang} to the key."},
		{"another spelling", "a = @ID", 4, "parameter {ID} is used in the query but not in the key: two results would share one key. Add {ID} to the key."},
		{"a longer name", "a = @id$x", 4, "parameter {id$x} is used in the query but not in the key: two results would share one key. Add {id$x} to the key."},
		{"positional", "a = $1", 4, "$1 is a positional parameter: its number says nothing about its place in the key. Write parameters as @name, with {name} in the key."},
		{"NUL", "a\x00b", 1, "the query contains a NUL byte. Remove it."},
		{"not UTF-8", "a \xff", 2, "the query is not valid UTF-8. Save the file as UTF-8."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Rewrite(tt.query, []string{"id"})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Rewrite(%q): error %v, want *Error", tt.query, err)
			}
			if e.Offset != tt.offset || e.Error() != tt.want {
				t.Errorf("Rewrite(%q): offset %d %q, want %d %q", tt.query, e.Offset, e, tt.offset, tt.want)
			}
		})
	}
}

func TestOriginal(t *testing.T) {
	t.Parallel()
	const query = "SELECT@identifier, @b, x"
	r, err := Rewrite(query, []string{"b", "identifier"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "SELECT $2, $1, x"; r.SQL != want {
		t.Fatalf("SQL = %q, want %q", r.SQL, want)
	}
	for _, tt := range []struct{ rewritten, original string }{{"SELECT", "SELECT"}, {"$2", "@identifier"}, {"$1", "@b"}, {"x", "x"}} {
		at := strings.Index(r.SQL, tt.rewritten)
		if got, want := r.Original(at), strings.Index(query, tt.original); got != want {
			t.Errorf("Original(%d), the %s, = %d, want %d", at, tt.rewritten, got, want)
		}
	}
	if got := r.Original(len(r.SQL)); got != len(query) {
		t.Errorf("Original(end) = %d, want %d", got, len(query))
	}
}

func TestSubstitute(t *testing.T) {
	t.Parallel()
	got := Substitute(`SELECT '$1', "$2", $$ $1 $$, a$1, $1, $12 /* $1 */`, func(n int) string { return strings.Repeat("x", n) })
	if want := `SELECT '$1', "$2", $$ $1 $$, a$1, x, xxxxxxxxxxxx /* $1 */`; got != want {
		t.Errorf("Substitute = %q, want %q", got, want)
	}
}

// FuzzRewrite checks what must hold for any text: no panic, only parameters are replaced, offsets map into the query
// and never go back, and a text without @ and $ comes back as it was.
func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{
		"SELECT a FROM t WHERE id=@id AND b<@b", "E'\\'@id' @id", "$a$ @id $a$ @id", "/* /* */ @id", "U&\"@id\"@id", "'a'\n'@id'@b", "1e@id", "a@id--\n@b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r, err := Rewrite(query, []string{"id", "b"})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset >= max(len(query), 1) {
				t.Fatalf("Rewrite(%q): error %v with an offset outside of the query", query, err)
			}
			return
		}
		if !strings.Contains(query, "@") && r.SQL != query {
			t.Fatalf("Rewrite(%q) = %q, want it unchanged", query, r.SQL)
		}
		back := strings.TrimSpace(Substitute(r.SQL, func(n int) string { return "@" + []string{"id", "b"}[n-1] }))
		if strings.ReplaceAll(back, " ", "") != strings.ReplaceAll(strings.TrimSpace(query), " ", "") {
			t.Fatalf("Rewrite(%q) = %q, which reads back as %q", query, r.SQL, back)
		}
		last := 0
		for i := range len(r.SQL) + 1 {
			o := r.Original(i)
			if o < last && o >= 0 || o > len(query) {
				t.Fatalf("Rewrite(%q): Original(%d) = %d after %d", query, i, o, last)
			}
			last = o
		}
	})
}
