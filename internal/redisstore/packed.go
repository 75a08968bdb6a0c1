package redisstore

import (
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// Payloads are compressed where values enter this store and made whole where they leave it, so that nothing behind it knows: not
// the read path, with its digests and comparisons, nor codecs, nor verify.

// maxPacked bounds what a payload is decompressed to, and so what of them is compressed. A frame that says more of itself, or that turns out to be
// more than it says, is no record: whoever can write to Redis cannot have readers allocate what they like.
const maxPacked = 64 << 20

// maxGrowth is what a byte of a frame becomes at most: a block holds up to 128 KiB, and takes 4 bytes at least. It keeps a few bytes that say
// 64 MiB of themselves from having that much allocated before they are found to hold nothing.
const maxGrowth = 128 << 10 / 4

//nolint:gochecknoglobals // made once, since they keep buffers, and safe for all
var (
	packer = sync.OnceValue(func() *zstd.Encoder {
		const window = 1 << 20 // each encoder keeps some of these; values are smaller, mostly
		e, err := zstd.NewWriter(nil, zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true),
			zstd.WithSingleSegment(true)) // so that every frame says how much it holds
		if err != nil {
			panic(err) // of the options
		}
		return e
	})
	unpacker = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPacked), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic(err) // of the options
		}
		return d
	})
)

// pack is a payload as it is stored, and its flag for the script: compressed if it is long enough for that, and gets shorter by it.
func pack(f *FillRequest) (payload []byte, flag string) {
	if f.CompressAbove <= 0 || len(f.Payload) <= f.CompressAbove || len(f.Payload) > maxPacked {
		return f.Payload, "-"
	}
	if frame := packer().EncodeAll(f.Payload, nil); len(frame) < len(f.Payload) {
		return frame, "z"
	}
	return f.Payload, "-"
}

// unpack is the text of a record as if its payload had never been compressed. What is not as pack has made it becomes a text that
// is no record, and so a miss; any other text stays as it is.
func unpack(text []byte) []byte {
	header, frame, ok := fence.Packed(text)
	if !ok {
		return text
	}
	var said zstd.Header
	if err := said.Decode(frame); err != nil || !said.HasFCS || said.FrameContentSize > min(maxPacked, uint64(len(frame))*maxGrowth) {
		return text[:0]
	}
	whole := len(header) + int(said.FrameContentSize) //nolint:gosec // bounded
	plain, err := unpacker().DecodeAll(frame, append(make([]byte, 0, whole), header...))
	if err != nil {
		return text[:0]
	}
	return plain
}

// textOf is the text of a record in a reply, nil when it is not there.
func textOf(reply rueidis.RedisResult) ([]byte, error) {
	text, err := reply.AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, nil
	}
	return unpack(text), err
}

// leasedRecord is the record in the answer to a LEASE. A payload that cannot be decompressed is none; lease and fences are there all the same.
func leasedRecord(text []byte) (fence.Record, error) {
	plain := unpack(text)
	if len(plain) > 0 || len(text) == 0 {
		return fence.ParseRecord(plain)
	}
	header, _, _ := fence.Packed(text)
	r, err := fence.ParseRecord(header)
	return fence.Record{Lease: r.Lease, Fences: r.Fences}, err
}
