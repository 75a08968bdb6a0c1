// Package envelope is what a value that code loads is stored in: which codec made its bytes, and of a type of what shape. A reader that
// would read them otherwise is told so by it, and not by a value that is half right.
package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// mark begins an envelope. No JSON text does, so that what the database made is told from it.
const mark = 1

// Envelope is a value's bytes, and how they are to be read.
type Envelope struct {
	Codec string // the name of the codec
	Shape string // of the type that was encoded
	Data  []byte
}

// Check reports a name that cannot be in an envelope.
func Check(name string) error {
	if name == "" || strings.ContainsAny(name, "\x00\x01") {
		return fmt.Errorf("codec name %q: it must not be empty, or hold control characters", name)
	}
	return nil
}

// Append appends the envelope to dst: 01, the codec's name, 00, the shape, 00, the bytes.
func (e *Envelope) Append(dst []byte) []byte {
	dst = append(append(append(dst, mark), e.Codec...), 0)
	dst = append(append(dst, e.Shape...), 0)
	return append(dst, e.Data...)
}

// Open takes an envelope apart. What is none, as a value that a query loaded, is not ok. Data is a part of the text.
func Open(text []byte) (e Envelope, ok bool) {
	if len(text) == 0 || text[0] != mark {
		return Envelope{}, false
	}
	codec, rest, ok := bytes.Cut(text[1:], []byte{0})
	if !ok {
		return Envelope{}, false
	}
	shape, data, ok := bytes.Cut(rest, []byte{0})
	return Envelope{Codec: string(codec), Shape: string(shape), Data: data}, ok
}

// JSON is the name of the codec by default.
const JSON = "json"

// ErrNotJSON says that what calls itself JSON is none. No codec of ours makes such a value, but any program may write one.
var ErrNotJSON = errors.New("it is said to be JSON, and is none")

// JSONOf is a payload as JSON, for those who have no codec: of an envelope, what is in it. It fails when that is something else. What is in no
// envelope the database has made, and it is taken as it is.
func JSONOf(payload []byte) ([]byte, error) {
	e, ok := Open(payload)
	switch {
	case !ok:
		return payload, nil
	case e.Codec == JSON && !json.Valid(e.Data):
		return nil, ErrNotJSON
	case e.Codec != JSON:
		return nil, fmt.Errorf("the application stores it with the codec %s, which only the application can read", e.Codec)
	}
	return e.Data, nil
}
