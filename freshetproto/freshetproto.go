// Package freshetproto stores values that code loads as Protocol Buffers. The values are messages: the type of an entry's values is a pointer to a
// generated struct.
package freshetproto

import (
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"
)

// Codec is for freshet.WithCodec. A message that gains or loses fields reads what was stored before, by the rules of Protocol Buffers.
type Codec struct{}

// Name implements freshet.Codec.
func (Codec) Name() string { return "protobuf" }

// Shape implements freshet.Shaper: messages of one name read each other's bytes.
func (Codec) Shape(t reflect.Type) string {
	if message, ok := reflect.TypeAssert[proto.Message](reflect.Zero(t)); ok {
		return string(message.ProtoReflect().Descriptor().FullName())
	}
	return "not a message: " + t.String() // Encode says so
}

// Encode implements freshet.Codec.
func (Codec) Encode(value any) ([]byte, error) {
	message, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("a %T is not a message of Protocol Buffers", value)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(message)
}

// Decode implements freshet.Codec.
func (Codec) Decode(data []byte, into any) error {
	at := reflect.ValueOf(into).Elem()
	if at.Kind() != reflect.Pointer {
		return fmt.Errorf("a %s is not a message of Protocol Buffers", at.Type())
	}
	fresh := reflect.New(at.Type().Elem())
	message, ok := reflect.TypeAssert[proto.Message](fresh)
	if !ok {
		return fmt.Errorf("a %s is not a message of Protocol Buffers", at.Type())
	}
	if err := proto.Unmarshal(data, message); err != nil {
		return err
	}
	at.Set(fresh)
	return nil
}
