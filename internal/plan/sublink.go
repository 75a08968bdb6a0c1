package plan

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v6"
)

// A subquery in a condition or in an expression.
//
// Its rows matter only for the rows of the query around that get as far as asking it, so the conditions there count for
// its tables as well, except the one that it stands in. The other way round its conditions say something of the rows
// around only where a row of it must exist: EXISTS or IN, as a condition of its own under AND, not negated.

// subLink reads a subquery of which nothing follows for the rows around.
func (b *block) subLink(s *pg_query.SubLink, in *scope, e *content) error {
	b.visits()[s] = true
	at := int(s.GetLocation())
	switch s.GetSubLinkType() {
	case pg_query.SubLinkType_EXISTS_SUBLINK, pg_query.SubLinkType_EXPR_SUBLINK, pg_query.SubLinkType_ARRAY_SUBLINK, pg_query.SubLinkType_ANY_SUBLINK, pg_query.SubLinkType_ALL_SUBLINK:
	default:
		return &refusal{at: at, what: "a subquery of this kind is not supported", why: whyUnknown, do: doByCode}
	}
	if s.GetTestexpr() != nil {
		if err := b.expression(s.GetTestexpr(), in, e); err != nil {
			return err
		}
	}
	if names := s.GetOperName(); len(names) > 1 || len(names) == 1 && !slices.Contains(operators, names[0].GetString_().GetSval()) {
		return &refusal{at: at, what: "the operator of this subquery is not supported", why: "whether its result depends on its operands alone is not known here", do: "Use IN or EXISTS."}
	}
	_, err := b.subquery(s, in, nil)
	return err
}

// subquery reads the query of a sublink. Its rows are those of the item, unless that is nil.
func (b *block) subquery(s *pg_query.SubLink, in *scope, item *occurrence) (*query, error) {
	q, err := b.compiler.readQuery(s.GetSubselect().GetSelectStmt(), setting{
		reading: b.reading, parent: b, place: b.at, holder: b.holding, derived: item, outer: in, with: b.with,
		exists: s.GetSubLinkType() == pg_query.SubLinkType_EXISTS_SUBLINK, asked: item == nil && s.GetTestexpr() != nil,
	})
	if err != nil {
		return nil, err
	}
	if len(q.arms) > 0 && s.GetSubLinkType() == pg_query.SubLinkType_ARRAY_SUBLINK && !q.ordered {
		b.compiler.warn("ARRAY(SELECT ...) without ORDER BY: two loads of the same data may differ")
	}
	return q, nil
}

// semiJoin reads EXISTS or IN where a row of the subquery must exist.
func (b *block) semiJoin(s *pg_query.SubLink, h *condition, in *scope) error {
	b.visits()[s] = true
	var left []operand
	isIn := s.GetSubLinkType() == pg_query.SubLinkType_ANY_SUBLINK
	if isIn {
		nodes := []*pg_query.Node{s.GetTestexpr()}
		if row := s.GetTestexpr().GetRowExpr(); row != nil {
			b.visits()[row] = true
			nodes = row.GetArgs()
		}
		for _, node := range nodes {
			o, err := b.operand(node, in)
			if err != nil {
				return err
			}
			left = append(left, o)
		}
	}
	item, err := b.compiler.item(b, "the subquery", int(s.GetLocation()))
	if err != nil {
		return err
	}
	q, err := b.subquery(s, in, item)
	if err != nil {
		return err
	}
	if err := item.derive(q, nil); err != nil {
		return err
	}
	if isIn && len(left) != len(item.columns) {
		return &refusal{at: item.at, what: "the subquery has another number of columns than what is looked up in it", do: "Select as many."}
	}
	h.sub, h.item = q, item
	for i, o := range left {
		right := item.columns[i].columnRef
		test := b.equality(h.join, o, operand{column: &right}, item.at)
		h.tests = append(h.tests, test)
		h.strict |= test.strict &^ item.bit()
	}
	return nil
}

// isSemiJoin reports EXISTS and = ANY, which is how IN is read.
func isSemiJoin(s *pg_query.SubLink) bool {
	switch s.GetSubLinkType() {
	case pg_query.SubLinkType_EXISTS_SUBLINK:
		return true
	case pg_query.SubLinkType_ANY_SUBLINK:
		names := s.GetOperName()
		return len(names) == 0 || len(names) == 1 && names[0].GetString_().GetSval() == "="
	default:
		return false
	}
}
