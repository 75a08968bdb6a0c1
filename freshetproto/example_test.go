package freshetproto_test

import (
	"fmt"

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
