package intent

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
)

// Tagged is the message that means every key whose value is tied to a tag.
func Tagged(tag string) (json.RawMessage, error) {
	text, err := quote(tag)
	if err != nil {
		return nil, err
	}
	return append(append([]byte(`{"v":`+version+`,"tags":[`), text...), "]}"...), nil
}

// Tags yields each tag, or an error, which is the last. They may be null: an aggregate over no rows.
func (m *Message) Tags() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if string(m.tags) == "null" {
			return
		}
		d := json.NewDecoder(bytes.NewReader(m.tags))
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			yield("", errors.New("tags is not a list"))
			return
		}
		for d.More() {
			t, err := d.Token()
			tag, ok := t.(string)
			if err != nil || !ok {
				yield("", errors.New("a tag is not a string"))
				return
			}
			if !yield(tag, nil) {
				return
			}
		}
	}
}
