package redisstore

import (
	"bytes"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/redis/rueidis"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

const (
	plainHeader  = "f1 V - - - s:0000000000000002:0000000000000002: - 0000000000000001\n"
	packedHeader = "f1 V z - - s:0000000000000002:0000000000000002: - 0000000000000001\n"
)

// payloads are some that get shorter, and some that do not.
func payloads() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		some := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "some")
		return bytes.Repeat(some, rapid.IntRange(1, 50).Draw(t, "times"))
	})
}

// TestPackRoundTrip: what is stored is never longer than the payload, is compressed above the size and not up to it, and comes back.
func TestPackRoundTrip(t *testing.T) {
	t.Parallel()
	squeezed := 0
	rapid.Check(t, func(t *rapid.T) {
		f := FillRequest{Payload: payloads().Draw(t, "payload"), CompressAbove: rapid.IntRange(0, 300).Draw(t, "above")}
		stored, flag := pack(&f)
		if len(stored) > len(f.Payload) || flag == "z" && (f.CompressAbove == 0 || len(f.Payload) <= f.CompressAbove) {
			t.Fatalf("%d bytes are stored as %d, %s", len(f.Payload), len(stored), flag)
		}
		if flag == "z" {
			squeezed++
		}
		text := strings.Replace(packedHeader, " z ", " "+flag+" ", 1) + string(stored)
		if got := unpack([]byte(text)); string(got) != plainHeader+string(f.Payload) {
			t.Fatalf("unpack(%q) = %q, want the payload %q", text, got, f.Payload)
		}
	})
	if squeezed == 0 {
		t.Error("no payload was compressed")
	}
}

// TestDamagedFramesAreMisses: whatever became of the bytes, it is the payload as it was, or no record.
func TestDamagedFramesAreMisses(t *testing.T) {
	t.Parallel()
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		payload := bytes.Repeat(payloads().Draw(t, "payload"), 3)
		frame := packer().EncodeAll(payload, nil)
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			frame = frame[:rapid.IntRange(0, len(frame)-1).Draw(t, "kept")]
		case 1:
			frame[rapid.IntRange(0, len(frame)-1).Draw(t, "at")] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
		default:
			frame = append(frame, rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "more")...)
		}
		got := unpack(append([]byte(packedHeader), frame...))
		if r, err := fence.ParseRecord(got); err != nil {
			refused++
		} else if !bytes.Equal(r.Payload, payload) {
			t.Fatalf("of %q came %q", payload, r.Payload)
		}
	})
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// TestFramesAreBounded: a frame that would become more than the bound, or more than it says, or does not say, is no record, and takes no memory
// to find out.
func TestFramesAreBounded(t *testing.T) { //nolint:paralleltest // allocations are counted
	enormous := packer().EncodeAll(make([]byte, maxPacked+1), nil)
	silent := func() []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err == nil {
			_, err = w.Write(make([]byte, 1<<20))
		}
		if err == nil {
			err = w.Flush() // the frame has begun before its size is known
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	small, large := packer().EncodeAll(make([]byte, 300), nil), packer().EncodeAll(make([]byte, 1<<20), nil)
	var bomb []byte
	for range 1000 {
		bomb = append(bomb, large...)
	}
	boast := func(size uint32) []byte { // a frame of one block of 300 equal bytes that says another size of itself
		return append(binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000}, size), 0b0110_0011, 0b1001, 0, 'x')
	}
	if got := unpack(append([]byte(packedHeader), boast(300)...)); string(got) != plainHeader+strings.Repeat("x", 300) {
		t.Fatalf("of a frame made by hand came %q", got)
	}
	for what, frame := range map[string][]byte{
		"a few bytes say 64 MiB": boast(maxPacked), "a few bytes say 4 GiB": boast(1<<32 - 1), "one byte less than it says": boast(301), "one more": boast(299),
		"more than the bound": enormous, "it does not say": silent, "another frame behind it": append(small, large...), "many frames": bomb,
		"skippable": append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}, small...), "none": nil, "no frame": []byte(`{"id":1}`),
	} {
		text := append([]byte(packedHeader), frame...)
		var got []byte
		unpack(text) // once for a decoder's own buffers, which stay
		const times = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			got = unpack(text)
		}
		runtime.ReadMemStats(&after)
		allocated := (after.TotalAlloc - before.TotalAlloc) / times
		if _, err := fence.ParseRecord(got); err == nil || allocated > 4<<20 {
			t.Errorf("%s: %.40q, %d bytes allocated", what, got, allocated)
		}
	}
	if payload, flag := pack(&FillRequest{Payload: make([]byte, maxPacked+1), CompressAbove: 1}); flag != "-" || len(payload) != maxPacked+1 {
		t.Error("what could not be read is compressed")
	}
}

// FuzzUnpack holds that no bytes of a record make a reader fail: they are a record, or none, and have no more memory taken than they can become.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte(packedHeader + string(packer().EncodeAll([]byte("{}{}{}{}{}{}{}{}"), nil))))
	f.Add([]byte(packedHeader + "\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x04\x63\x09\x00x"))     // says 64 MiB
	f.Add([]byte(packedHeader + "\x28\xb5\x2f\xfd\x80\x88\x00\x00\x00\x04\x63\x09\x00x")) // and a window
	f.Add([]byte(strings.Replace(packedHeader, " z ", " tz ", 1)))
	f.Add([]byte(packedHeader))
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := unpack(text)
		runtime.ReadMemStats(&after)
		const others = 8 << 20 // a decoder's own buffers, and whatever else runs
		if took := after.TotalAlloc - before.TotalAlloc; took > min(maxPacked, uint64(len(text))*maxGrowth)+others {
			t.Errorf("unpack of %d bytes allocated %d: %q", len(text), took, text)
		}
		if _, _, packed := fence.Packed(text); !packed && !bytes.Equal(got, text) {
			t.Errorf("unpack(%q) = %q", text, got)
		}
		if r, err := leasedRecord(text); err == nil && r.State == fence.None && len(r.Payload) > 0 {
			t.Errorf("leasedRecord(%q) = %+v", text, r)
		}
	})
}

// twins are two keys to which the same is done: of one, what is filled is compressed.
type twins struct {
	s             *Store
	plain, packed string
	client        rueidis.Client
	survey        *Survey
	met           map[string]int
}

func (w *twins) both(t *rapid.T, what string, do func(name string, above int) (string, error)) {
	t.Helper()
	want, err := do(w.plain, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := do(w.packed, 1)
	if err != nil || got != want {
		t.Fatalf("%s of what is compressed: %s, %v; of what is not: %s", what, got, err, want)
	}
}

// look compares the keys, and holds that the value of one is compressed exactly as long as it is there.
func (w *twins) look(t *rapid.T) {
	t.Helper()
	var seen [2]string
	for i, name := range []string{w.plain, w.packed} {
		r, err := w.s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		r.Filled, r.Lease.End, r.Marked = 0, 0, min(r.Marked, 1)
		seen[i] = fmt.Sprintf("%+v", r)
		text, err := w.client.Do(t.Context(), w.client.B().Get().Key(name).Build()).AsBytes()
		if err != nil && !rueidis.IsRedisNil(err) {
			t.Fatal(err)
		}
		_, _, packed := fence.Packed(text)
		if want := i == 1 && (r.State == fence.Live || r.State == fence.Stale); packed != want {
			t.Fatalf("%q is compressed: %t, want %t", text, packed, want)
		}
		if packed {
			w.met["compressed and "+r.State.String()]++
			w.everyWay(t, name)
		}
	}
	if seen[0] != seen[1] {
		t.Fatalf("it is\n%s\nand compressed\n%s", seen[0], seen[1])
	}
}

// everyWay reads a record in all ways that there are: none shows a compressed payload.
func (w *twins) everyWay(t *rapid.T, name string) {
	t.Helper()
	ctx, epochs := t.Context(), []string{strings.Replace(name, ":e.v.a:", ":e.v.a~", 1)}
	want, err := w.s.Read(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	tied, err1 := w.s.ReadTied(ctx, name, epochs)
	_, _, headed, err2 := w.s.ReadWithHead(ctx, name, nil)
	_, _, both, err3 := w.s.ReadWithHead(ctx, name, epochs)
	many := w.s.ReadMany(ctx, []Reading{{Name: name}, {Name: name, Epochs: epochs}}, true)
	held, err4 := w.survey.Read(ctx, []string{name})
	if err := errors.Join(err1, err2, err3, err4, many[0].Err, many[1].Err); err != nil {
		t.Fatal(err)
	}
	for i, got := range [][]byte{tied.Text, headed.Text, both.Text, many[0].Text, many[1].Text, held[0].Text} {
		if !bytes.Equal(got, want) {
			t.Fatalf("read in the way %d it is %q, want %q", i, got, want)
		}
	}
	if _, err := fence.ParseRecord(want); err != nil {
		t.Fatalf("%q: %v", want, err)
	}
}

// TestCompressionChangesNoDecision gives two keys the same random commands: all scripts answer alike and leave the same, compressed or not.
func TestCompressionChangesNoDecision(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := open(t, server)
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 10))
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	survey, err := s.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(survey.Close)
	run, met := 0, map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		run++
		w := &twins{s: s, plain: s.testName(fmt.Sprintf("plain%d", run)), packed: s.testName(fmt.Sprintf("packed%d", run)), client: client, survey: survey, met: met}
		tokens := rapid.SampledFrom([]fence.Token{token('a'), token('a'), token('a'), token('b')})
		epochs := rapid.SampledFrom([][]fence.Epoch{nil, {{Name: "~0", ID: string(token('d'))}}})
		keeps := rapid.SampledFrom([]time.Duration{0, time.Hour})
		covers := rapid.Map(rapid.Uint64Range(2, 12), func(x uint64) fence.Coverage { return fence.Coverage{Snapshot: sees(mvcc.XID(x))} })
		rt.Repeat(map[string]func(*rapid.T){
			"lease": func(t *rapid.T) {
				tok, dead := tokens.Draw(t, "token"), rapid.SampledFrom([]string{"", "~0=" + string(token('d'))}).Draw(t, "dead")
				w.both(t, "LEASE", func(name string, _ int) (string, error) {
					reply, err := s.LeaseOver(t.Context(), name, dead, tok, time.Minute)
					reply.Record.Filled, reply.Record.Lease.End, reply.Record.Marked = 0, 0, min(reply.Record.Marked, 1)
					return fmt.Sprintf("%t %s %+v", reply.Granted, reply.Holder, reply.Record), err
				})
			},
			"fill": func(t *rapid.T) {
				f := FillRequest{
					Token: tokens.Draw(t, "token"), Coverage: covers.Draw(t, "coverage"), State: fence.Live, TTL: time.Minute,
					Epochs: epochs.Draw(t, "epochs"), Keep: keeps.Draw(t, "keep"),
				}
				f.Payload = []byte(strings.Repeat(rapid.SampledFrom([]string{"{}", "\n\x00"}).Draw(t, "payload"), 40))
				if rapid.IntRange(0, 4).Draw(t, "negative") == 0 {
					f.State, f.Payload = fence.Negative, nil
				}
				w.both(t, "FILL", func(name string, above int) (string, error) {
					f.CompressAbove = above
					outcome, err := s.Fill(t.Context(), name, f)
					met[outcome.String()]++
					return outcome.String(), err
				})
			},
			"renew": func(t *rapid.T) {
				q := RenewRequest{
					Token: tokens.Draw(t, "token"), Coverage: covers.Draw(t, "coverage"), TTL: time.Minute, Epochs: epochs.Draw(t, "epochs"),
					RowVersion: "7", Keep: keeps.Draw(t, "keep"),
				}
				w.both(t, "RENEW", func(name string, _ int) (string, error) {
					outcome, err := s.Renew(t.Context(), name, q)
					met[outcome.String()]++
					return outcome.String(), err
				})
			},
			"put": func(t *rapid.T) {
				f := FillRequest{
					Token: token('a'), Coverage: fence.Coverage{Snapshot: sees(5)}, State: fence.Live, TTL: time.Minute,
					Epochs: epochs.Draw(t, "epochs"), Keep: keeps.Draw(t, "keep"),
				}
				f.Payload = bytes.Repeat([]byte("put"), 50)
				w.both(t, "a FILL of what is not there", func(name string, above int) (string, error) {
					if err := client.Do(t.Context(), client.B().Del().Key(name).Build()).Error(); err != nil {
						return "", err
					}
					if _, err := s.Lease(t.Context(), name, f.Token, time.Minute); err != nil {
						return "", err
					}
					f.CompressAbove = above
					outcome, err := s.Fill(t.Context(), name, f)
					return outcome.String(), err
				})
			},
			"release": func(t *rapid.T) {
				tok := tokens.Draw(t, "token")
				w.both(t, "release", func(name string, _ int) (string, error) { return "", s.Release(t.Context(), name, tok) })
			},
			"early": func(t *rapid.T) {
				x := mvcc.XID(rapid.Uint64Range(2, 12).Draw(t, "x"))
				w.both(t, "EARLY", func(name string, _ int) (string, error) {
					did, err := c.Early(t.Context(), []Stamped{{Name: name, Stamps: []fence.Stamp{{XID: x, End: mvcc.LSN(x)}}}})
					return fmt.Sprint(did.Removed, did.Kept), err
				})
			},
			"strict early": func(t *rapid.T) {
				x := mvcc.XID(rapid.Uint64Range(2, 12).Draw(t, "x"))
				w.both(t, "a writer's EARLY", func(name string, _ int) (string, error) {
					return "", s.Early(t.Context(), Stamped{Name: name, Stamps: []fence.Stamp{{XID: x, End: mvcc.LSN(x)}}})
				})
			},
			"confirm": func(t *rapid.T) {
				x := mvcc.XID(rapid.Uint64Range(2, 12).Draw(t, "x"))
				w.both(t, "CONFIRM", func(name string, _ int) (string, error) {
					did, err := c.Apply(t.Context(), Batch{
						Expect: expect(head), Wi: 100, Si: sees(20), Keys: []Stamped{{Name: name, Stamps: []fence.Stamp{{XID: x, End: mvcc.LSN(x)}}}},
					})
					met["removed"] += int(did.Removed)
					return fmt.Sprint(did.Removed, did.Kept), err
				})
			},
			"": w.look,
		})
	})
	for _, what := range []string{"compressed and live", "compressed and stale", "filled", "renewed", "not_newer", "removed"} {
		if met[what] == 0 {
			t.Errorf("%s did not happen: the commands are not random enough", what)
		}
	}
}

//go:embed testdata/before_compression
var uncompressing embed.FS

func scriptBefore(t *testing.T, mode string, parts ...string) script {
	t.Helper()
	text := []string{mode}
	for _, part := range parts {
		if name, ok := strings.CutPrefix(part, "testdata/"); ok {
			content, err := uncompressing.ReadFile("testdata/before_compression/" + name)
			if err != nil {
				t.Fatal(err)
			}
			part = string(content)
		}
		text = append(text, part)
	}
	return newScript(text...)
}

// older is a store whose scripts are those from before there was compression.
func older(t *testing.T, s *Store) *Store {
	t.Helper()
	const record = "testdata/record.lua"
	old := *s.scripts
	old.lease = scriptBefore(t, refusedWhenFull, record, luaLease)
	old.fill = scriptBefore(t, refusedWhenFull, record, luaSnapshot, luaCoverage, luaAdmit, "testdata/fill.lua")
	old.renew = scriptBefore(t, refusedWhenFull, record, luaSnapshot, luaCoverage, luaAdmit, "testdata/renew.lua")
	old.release = scriptBefore(t, allowedWhenFull, record, luaRelease)
	old.early = scriptBefore(t, allowedWhenFull, "testdata/early_plain.lua", luaSnapshot, luaCoverage, record, luaFences, luaEarly)
	old.confirm = scriptBefore(t, allowedWhenFull, luaConfirmPlain, luaSnapshot, luaCoverage, record, luaFences, luaConfirm)
	s.scripts = &old
	return s
}

// TestCompressedValuesAmongOlderPrograms: who does not know compression takes what is compressed for missing, leaves nothing of it that a change should have removed, and
// what it stores instead is read by all.
func TestCompressedValuesAmongOlderPrograms(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := open(t, server)
	old := older(t, openNamespace(t, server, s.namespace))
	daemon := connect(t, old)
	head := begin(t, daemon, fence.NewTerm(1, 10))
	payload := []byte(strings.Repeat(`{"id":1}`, 100))
	name := s.testName("k")
	put := func(keep time.Duration, epochs ...fence.Epoch) {
		t.Helper()
		if err := s.client.Do(t.Context(), s.client.B().Del().Key(name).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		leased(t, s, name, token('a'))
		outcome, err := s.Fill(t.Context(), name, FillRequest{
			Token: token('a'), Coverage: fence.Coverage{Snapshot: sees(10)}, State: fence.Live, Payload: payload, TTL: time.Minute, CompressAbove: 100,
			Keep: keep, Epochs: epochs,
		})
		if err != nil || outcome != fence.Filled {
			t.Fatalf("Fill = %v, %v", outcome, err)
		}
		if r, err := s.Get(t.Context(), name); err != nil || !bytes.Equal(r.Payload, payload) {
			t.Fatalf("%+v, %v", r, err)
		}
		// An older reader's GET: what it has is judged by the same functions as today, without unpack before them.
		text, err := s.client.Do(t.Context(), s.client.B().Get().Key(name).Build()).AsBytes()
		if _, _, packed := fence.Packed(text); err != nil || !packed {
			t.Fatalf("what is stored is %q, %v", text, err)
		}
		if _, _, hit := fence.Hit(text); hit {
			t.Errorf("an older reader takes %q for a hit", text)
		}
		if r, err := fence.ParseRecord(text); !errors.Is(err, fence.ErrFormat) {
			t.Errorf("an older reader reads %q as %+v, %v", text, r, err)
		}
	}
	// An older reader's lease is granted over nothing, and what it stores is everybody's.
	put(0)
	if reply := leased(t, old, name, token('b')); reply.Record.State != fence.None {
		t.Errorf("an older reader finds %+v", reply.Record)
	}
	args := []string{string(token('b')), fence.Coverage{Snapshot: sees(11)}.String(), "V", "-", `{"seen":11}`, "60000", "-"} // as it sends them
	if answer, err := old.eval(t.Context(), old.scripts.fill, name, args); err != nil {
		t.Fatal(err)
	} else if got, _, err := fillOutcome("fill key", answer); err != nil || got != fence.Filled {
		t.Errorf("an older reader's FILL = %v, %v", got, err)
	}
	if r, err := s.Get(t.Context(), name); err != nil || string(r.Payload) != `{"seen":11}` {
		t.Errorf("of an older reader: %+v, %v", r, err)
	}
	// One that had its lease before finds it gone: it stores nothing, and does not fail.
	leased(t, old, name, token('c'))
	put(0)
	args[0] = string(token('c'))
	if answer, err := old.eval(t.Context(), old.scripts.fill, name, args); err != nil {
		t.Fatal(err)
	} else if got, _, err := fillOutcome("fill key", answer); err != nil || got != fence.NoLease {
		t.Errorf("FILL of an older reader that came too late = %v, %v", got, err)
	}
	// An older daemon's, and an older strict writer's, take it away for what it lacks, and for what it does not.
	for what, do := range map[string]func(Stamped) error{
		"CONFIRM": func(change Stamped) error {
			_, err := daemon.Apply(t.Context(), Batch{Expect: expect(head), Wi: 100, Si: sees(40), Keys: []Stamped{change}})
			return err
		},
		"EARLY": func(change Stamped) error {
			_, err := daemon.Early(t.Context(), []Stamped{change})
			return err
		},
		"strict": func(change Stamped) error { return old.Early(t.Context(), change) },
	} {
		for _, x := range []uint64{3, 30} { // covered, and not
			for _, keep := range []time.Duration{0, time.Hour} {
				for _, epochs := range [][]fence.Epoch{nil, {{Name: "~0", ID: string(token('d'))}}} {
					put(keep, epochs...)
					if err := do(Stamped{Name: name, Stamps: []fence.Stamp{{XID: mvcc.XID(x), End: mvcc.LSN(x)}}}); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					if r, err := s.Get(t.Context(), name); err != nil || r.State != fence.None {
						t.Errorf("after an older program's %s of %d there is %+v, %v", what, x, r, err)
					}
				}
			}
		}
	}
}
