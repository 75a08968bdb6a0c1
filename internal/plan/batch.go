package plan

import (
	"fmt"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/sqlparam"
)

// batch is the form of an entry in which one statement loads many keys; nil: it has none. Whether PostgreSQL agrees, and of what
// types the keys' columns are, is for it to say (pgcatalog.Verify).
func (c *compiler) batch(e *rule.Entry) *rule.Batch {
	if len(e.Params) == 0 {
		return nil // there is one key
	}
	b := &rule.Batch{}
	var fits bool
	if b.SQL, fits = forKeys(e.SQL, e.Params); !fits {
		return nil
	}
	for i := range e.Rules {
		tag := e.Rules[i].Tag
		if tag == nil {
			continue
		}
		sql, fits := forKeys(tag.SQL, e.Params)
		if !fits {
			return nil
		}
		b.Tags = append(b.Tags, sql)
	}
	return b
}

// forKeys puts the columns of keys in the place of parameters. It fails where the result does not read as the query with just
// that done to it: where the query has a name of ours, say.
func forKeys(sql string, params []rule.Param) (string, bool) {
	sql = strings.TrimRight(sql, "; \t\r\n")
	if strings.Contains(sql, rule.BatchName) {
		return "", false
	}
	text := sqlparam.Substitute(sql, func(n int) string {
		if n < 1 || n > len(params) || !rule.TextOfArray(params[n-1].Type) {
			return rule.BatchColumn(n)
		}
		return "(" + rule.BatchColumn(n) + ")::" + sqlName(params[n-1].Type)
	})
	planned, err := pg_query.Parse(sql)
	if err != nil {
		return "", false
	}
	again, err := pg_query.Parse(text)
	if err != nil || len(planned.GetStmts()) != 1 || len(again.GetStmts()) != 1 {
		return "", false
	}
	before, after := planned.GetStmts()[0].GetStmt(), again.GetStmts()[0].GetStmt()
	withParameters(after.ProtoReflect(), params)
	forgetPlaces(before.ProtoReflect())
	forgetPlaces(after.ProtoReflect())
	return text, proto.Equal(before, after)
}

// withParameters puts parameters back where columns of keys stand.
func withParameters(m protoreflect.Message, params []rule.Param) {
	if node, ok := m.Interface().(*pg_query.Node); ok {
		column := node
		if cast := node.GetTypeCast(); cast != nil {
			column = cast.GetArg()
		}
		n := keyColumn(column)
		if n >= 1 && n <= len(params) && rule.TextOfArray(params[n-1].Type) == (column != node) {
			node.Node = &pg_query.Node_ParamRef{ParamRef: &pg_query.ParamRef{Number: int32(n)}} //nolint:gosec // a few
			return
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				withParameters(v.List().Get(i).Message(), params)
			}
		default:
			withParameters(v.Message(), params)
		}
		return true
	})
}

// keyColumn is the number of the parameter for which a column of keys stands; 0: it is another node.
func keyColumn(node *pg_query.Node) (n int) {
	names, _ := nameParts(node.GetColumnRef())
	if len(names) != 2 || names[0] != rule.BatchName {
		return 0
	}
	if _, err := fmt.Sscanf(names[1], "p%d", &n); err != nil {
		return 0
	}
	return n
}
