package freshettest

import (
	"maps"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

// tagged are the epochs that an intent of tags ends: those that the daemon's own router finds.
func (w *World) tagged(m *intent.Message) (epochs []string, err error) {
	entries := slices.Collect(maps.Values(w.roster.Entries))
	const enough = 1 << 20
	router, keys := route.New(entries), route.NewKeys(enough, enough)
	for tag, err := range m.Tags() {
		if err == nil {
			_, err = router.Tag(tag, keys)
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range keys.Len() {
		entry, epoch := keys.At(i)
		prefix := rule.KeyPrefix(namespace, generation, entries[entry])
		epochs = append(epochs, strings.TrimSuffix(prefix, ":")+string(epoch))
	}
	return epochs, nil
}
