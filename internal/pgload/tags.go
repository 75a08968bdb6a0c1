package pgload

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshet/freshet/internal/rule"
)

// Tags are the join values that a TagQuery found.
type Tags struct {
	Values [][]string // as PostgreSQL spells them; none with a NULL, which nothing equals
	More   bool       // there are more than MaxTags, and Values has none
}

// MaxTags bounds the tags of one query.
const MaxTags = 256

// tagColumn makes one column of tag queries: a JSON array with an array of tuples for each.
func tagColumn(queries []*rule.TagQuery) string {
	all := make([]string, len(queries))
	for i, q := range queries {
		names, texts, known := make([]string, len(q.From)), make([]string, len(q.From)), make([]string, len(q.From))
		for n := range q.From {
			names[n] = "freshet_c" + strconv.Itoa(n)
			texts[n] = names[n] + "::text AS " + names[n]
			known[n] = names[n] + " IS NOT NULL"
		}
		list := strings.Join(names, ", ")
		all[i] = fmt.Sprintf(`(SELECT pg_catalog.json_agg(pg_catalog.json_build_array(%s)) FROM (
			SELECT DISTINCT %s FROM (%s
			) freshet_t(%s) WHERE %s LIMIT %d) freshet_u)`,
			list, strings.Join(texts, ", "), strings.TrimRight(q.SQL, "; \t\r\n"), list, strings.Join(known, " AND "), MaxTags+1)
	}
	return "pg_catalog.json_build_array(" + strings.Join(all, ", ") + ")::text"
}

// tags reads what tagColumn said.
func (s *state) tags(q *Query) ([]Tags, error) {
	if len(q.Tags) == 0 {
		return nil, nil
	}
	var found [][][]string
	err := json.Unmarshal([]byte(text(s.found)), &found)
	if err == nil && len(found) != len(q.Tags) {
		err = fmt.Errorf("%d of %d", len(found), len(q.Tags))
	}
	if err != nil {
		return nil, fmt.Errorf("load: the tags cannot be read: %w", err)
	}
	tags := make([]Tags, len(found))
	for i, values := range found {
		if tags[i].Values = values; len(values) > MaxTags {
			tags[i] = Tags{More: true}
		}
	}
	return tags, nil
}
