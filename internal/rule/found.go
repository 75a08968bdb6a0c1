package rule

import (
	"fmt"

	"github.com/freshet/freshet/internal/keytext"
)

// Found makes of a row of the rule's look-up the arguments of the key that it means. args has the length of params.
func (r *Rule) Found(params []Param, row []*string, args []keytext.Arg) error {
	for i := range args {
		switch {
		case i < len(r.Fixed) && r.Fixed[i] != nil:
			args[i] = *r.Fixed[i]
		case i >= len(row) || row[i] == nil:
			return fmt.Errorf("the look-up for table %s.%s does not tell parameter %s", r.Schema, r.Table, params[i].Name)
		default:
			text, err := keytext.AppendCanonicalLog(nil, params[i].Type.Wide(), []byte(*row[i]))
			if err != nil {
				return fmt.Errorf("the look-up for table %s.%s: parameter %s: %w", r.Schema, r.Table, params[i].Name, err)
			}
			args[i] = keytext.Arg{Text: string(text)}
		}
	}
	return nil
}
