package redisstore

import (
	"fmt"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
)

// namesPerUnlink names go into one UNLINK: enough that the command's own cost does not matter, few enough that the
// server does not pause for one.
const namesPerUnlink = 500

// What is under way before replies are read.
const (
	unlinksPerPipeline = 128
	keysPerPipeline    = 512
)

// raised are the names of what is raised among HEAD's fields.
func raised(r fence.Raise) []string {
	fields := make([]string, 0, 1+len(r.Buckets)+len(r.Ended))
	if r.All {
		fields = append(fields, "wi")
	}
	for _, b := range r.Buckets {
		fields = append(fields, b.Field())
	}
	if r.AllEnded {
		fields = append(fields, "st")
	}
	for _, b := range r.Ended {
		fields = append(fields, b.EndedField())
	}
	return fields
}

// stampArgs are those of the scripts that take stamps, behind the given ones.
func stampArgs(k *Stamped, first ...string) []string {
	for _, x := range k.Stamps {
		first = append(first, fence.XIDText(x.XID), fence.LSNText(x.End))
	}
	return first
}

// add counts what EARLY, CONFIRM or UNLINK answered; that of epochs where ends is set.
func add(r *Result, reply rueidis.RedisResult, ends bool) error {
	message, err := reply.ToMessage()
	if err != nil {
		return typed(err)
	}
	if message.IsInt64() {
		n, err := message.AsInt64()
		if ends {
			r.Ended += n
		} else {
			r.Removed += n
		}
		return typed(err)
	}
	outcome, err := message.ToString()
	if err != nil {
		return typed(err)
	}
	for o := fence.Absent; o <= fence.Fenced; o++ {
		if o.String() == outcome {
			r.Count(o)
			return nil
		}
	}
	return fmt.Errorf("answer %q: %w", outcome, ErrRefused)
}
