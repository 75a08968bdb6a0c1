package freshetproto_test

import (
	"fmt"
	"reflect"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/freshet/freshet/freshetproto"
)

// Values are messages. An entry is given the codec by freshet.WithCodec.
func ExampleCodec() {
	data, err := freshetproto.Codec{}.Encode(wrapperspb.String("K-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	var back *wrapperspb.StringValue
	err = freshetproto.Codec{}.Decode(data, &back)
	fmt.Println(len(data), back.GetValue(), err)
	// Output: 5 K-1 <nil>
}

// What is stored says by which codec, and of which message: bytes of another one are a miss, and no error.
func ExampleCodec_Shape() {
	codec := freshetproto.Codec{}
	fmt.Println(codec.Name(), codec.Shape(reflect.TypeFor[*wrapperspb.StringValue]()))
	// Output: protobuf google.protobuf.StringValue
}
