package freshetmsgpack_test

import (
	"fmt"

	"github.com/freshet/freshet/freshetmsgpack"
)

// Fields have the names of the tag msgpack. An entry is given the codec by freshet.WithCodec.
func ExampleCodec() {
	type line struct {
		SKU string `msgpack:"sku"`
	}
	data, err := freshetmsgpack.Codec{}.Encode(line{SKU: "K-1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var back line
	err = freshetmsgpack.Codec{}.Decode(data, &back)
	fmt.Println(len(data), back.SKU, err)
	// Output: 9 K-1 <nil>
}

// What is stored says by which codec: bytes of another one are a miss, and no error.
func ExampleCodec_Name() {
	fmt.Println(freshetmsgpack.Codec{}.Name())
	// Output: msgpack
}
