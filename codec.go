package freshet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/freshet/freshet/internal/envelope"
)

// Codec turns values that application code loads into bytes and back. It may be used from any number of goroutines. Values that a query loads are
// the database's own JSON, and have no other.
type Codec interface {
	// Name says in the cache what made the bytes. One whose bytes are read otherwise than before has another name. json is the name of the codec
	// by default, whose bytes the gateway and the commands read as well: Entry refuses another codec of that name.
	Name() string
	// Encode returns the bytes of a value.
	Encode(value any) ([]byte, error)
	// Decode reads bytes into what into points to. It may keep the bytes.
	Decode(data []byte, into any) error
}

// Shaper is a Codec that says itself which types can read each other's bytes: those of the same shape. For others it is a digest of the
// type: its fields, their names, order, types and tags.
type Shaper interface {
	Shape(t reflect.Type) string
}

// WithCodec has the values of an entry that code loads stored by a codec. Default: JSON.
//
// What another codec has stored, or the same one of a type that has changed, is a miss for this one: it is loaded anew and stored over it. So is what
// the codec has stored and does not read, as after a change that its name and the type do not tell of. While programs with different types or codecs
// of one entry run side by side, each does that to the others.
func WithCodec[K, V any](codec Codec) Option[K, V] {
	return func(t *Typed[K, V]) { t.codec = codec }
}

// jsonCodec is the codec by default.
type jsonCodec struct{}

func (jsonCodec) Name() string                       { return envelope.JSON }
func (jsonCodec) Encode(value any) ([]byte, error)   { return json.Marshal(value) }
func (jsonCodec) Decode(data []byte, into any) error { return json.Unmarshal(data, into) }

// errOther is the error of a value that was stored by another codec, or of another type.
var errOther = errors.New("it was stored by another codec, or of another type")

// unreadable is the error of a stored value that its own codec does not read. It is errOther: a codec, or a type that decodes itself, may have
// changed without a new name. Once the value was loaded anew it is an error like any other.
type unreadable struct{ error }

func (unreadable) Is(target error) bool { return target == errOther }

func (u unreadable) Unwrap() error { return u.error }

// encode is a value that code loaded, as it is stored.
func (t *Typed[K, V]) encode(value V) ([]byte, error) {
	data, err := t.codec.Encode(value)
	if err != nil {
		return nil, fmt.Errorf("encode value: %w", err)
	}
	e := envelope.Envelope{Codec: t.codec.Name(), Shape: t.shape, Data: data}
	return e.Append(make([]byte, 0, len(data)+len(e.Codec)+len(e.Shape)+3)), nil
}

// decode is a value that was stored: by encode, where code loads the entry, and otherwise as the database made it.
func (t *Typed[K, V]) decode(payload []byte) (value V, err error) {
	data := payload
	if t.load != nil {
		e, ok := envelope.Open(payload)
		if !ok || e.Codec != t.codec.Name() || e.Shape != t.shape {
			return value, errOther
		}
		data = e.Data
	}
	if raw, ok := any(&value).(*json.RawMessage); ok && t.codec == Codec(jsonCodec{}) {
		*raw = data
		return value, nil
	}
	if err := t.codec.Decode(data, &value); err != nil {
		err = fmt.Errorf("entry %s: decode value into %T: %w", t.name, value, err)
		if t.load != nil {
			err = unreadable{err}
		}
		return value, err
	}
	return value, nil
}

// setCodec settles how the entry's values are stored, once all options are known.
func (t *Typed[K, V]) setCodec() error {
	switch {
	case t.codec == nil:
		t.codec = jsonCodec{}
	case t.load == nil:
		return errors.New("WithCodec is for entries that code loads (freshet.Load): what a query loads is JSON")
	case t.codec.Name() == envelope.JSON:
		return fmt.Errorf("codec %T: its name %s is that of the codec by default, whose bytes the gateway and the commands read as well: give it another name", t.codec, envelope.JSON)
	}
	if err := envelope.Check(t.codec.Name()); err != nil {
		return err
	}
	of := reflect.TypeFor[V]()
	if s, ok := t.codec.(Shaper); ok {
		if t.shape = s.Shape(of); envelope.Check(t.shape) != nil {
			return fmt.Errorf("codec %s: it gives %s the shape %q, which must not be empty, or hold control characters", t.codec.Name(), of, t.shape)
		}
		return nil
	}
	t.shape = shapeOf(of)
	return nil
}

// shapeOf digests what of a type decides how its values are encoded.
func shapeOf(t reflect.Type) string {
	d := digester{seen: map[reflect.Type]int{}}
	d.add(t)
	sum := sha256.Sum256(d.text)
	const bytes = 8
	return hex.EncodeToString(sum[:bytes])
}

type digester struct {
	text []byte
	seen map[reflect.Type]int // of types with a name, which may contain themselves
}

func (d *digester) add(t reflect.Type) {
	if n, ok := d.seen[t]; ok {
		d.text = fmt.Appendf(d.text, "type %d;", n)
		return
	}
	if t.Name() != "" && t.PkgPath() != "" {
		d.seen[t] = len(d.seen)
		if t.NumMethod() > 0 || reflect.PointerTo(t).NumMethod() > 0 { // it may encode itself
			d.text = fmt.Appendf(d.text, "%s.%s ", t.PkgPath(), t.Name())
		}
	}
	d.text = fmt.Appendf(d.text, "%s;", t.Kind())
	switch t.Kind() {
	case reflect.Struct:
		for f := range t.Fields() {
			d.text = fmt.Appendf(d.text, "%q %q %v ", f.Name, f.Tag, f.Anonymous)
			d.add(f.Type)
		}
		d.text = append(d.text, "end;"...)
	case reflect.Map:
		d.add(t.Key())
		d.add(t.Elem())
	case reflect.Array:
		d.text = fmt.Appendf(d.text, "%d ", t.Len())
		d.add(t.Elem())
	case reflect.Slice, reflect.Pointer:
		d.add(t.Elem())
	default: // a scalar, or an interface, whose values say themselves what they are
	}
}
