// Package freshetmsgpack stores values that code loads as MessagePack: smaller than JSON, and quicker to decode.
package freshetmsgpack

import "github.com/vmihailenco/msgpack/v5"

// Codec is for freshet.WithCodec. Names and options of fields are those of the tag msgpack.
type Codec struct{}

// Name implements freshet.Codec.
func (Codec) Name() string { return "msgpack" }

// Encode implements freshet.Codec.
func (Codec) Encode(value any) ([]byte, error) { return msgpack.Marshal(value) }

// Decode implements freshet.Codec.
func (Codec) Decode(data []byte, into any) error { return msgpack.Unmarshal(data, into) }
