package redisstore

import (
	"crypto/sha1" //nolint:gosec // the name that EVALSHA gives scripts, no secret rests on it
	_ "embed"
	"encoding/hex"
	"strings"
)

//go:embed lua/record.lua
var luaRecord string

//go:embed lua/snapshot.lua
var luaSnapshot string

//go:embed lua/coverage.lua
var luaCoverage string

//go:embed lua/head.lua
var luaHead string

//go:embed lua/lease.lua
var luaLease string

//go:embed lua/fill.lua
var luaFill string

//go:embed lua/admit.lua
var luaAdmit string

//go:embed lua/renew.lua
var luaRenew string

//go:embed lua/release.lua
var luaRelease string

//go:embed lua/fences.lua
var luaFences string

//go:embed lua/early.lua
var luaEarly string

//go:embed lua/early_plain.lua
var luaEarlyPlain string

//go:embed lua/confirm.lua
var luaConfirm string

//go:embed lua/confirm_plain.lua
var luaConfirmPlain string

//go:embed lua/draw.lua
var luaDraw string

//go:embed lua/tick.lua
var luaTick string

//go:embed lua/register.lua
var luaRegister string

//go:embed lua/intent.lua
var luaIntent string

//go:embed lua/advance.lua
var luaAdvance string

//go:embed lua/claim.lua
var luaClaim string

//go:embed lua/begin.lua
var luaBegin string

//go:embed lua/move.lua
var luaMove string

//go:embed lua/roster.lua
var luaRoster string

//go:embed lua/look.lua
var luaLook string

//go:embed lua/abandon.lua
var luaAbandon string

// The first line of a script says what Redis may refuse it for. A full Redis refuses LEASE, FILL and RENEW before they do
// anything; what the daemon writes must go on then, or a full cache would be a stale one.
const (
	refusedWhenFull = "#!lua\n"
	allowedWhenFull = "#!lua flags=allow-oom\n"
	readsOnly       = "#!lua flags=no-writes\n"
)

// script is called by its digest, and by its text when the server does not know the digest.
type script struct {
	text, digest string
}

func newScript(parts ...string) script {
	text := strings.Join(parts, "")
	sum := sha1.Sum([]byte(text)) //nolint:gosec // see the import
	return script{text: text, digest: hex.EncodeToString(sum[:])}
}

// scripts are all scripts of a store.
type scripts struct {
	lease, fill, renew, release, tick, register                  script
	early, confirm, intent, advance, claim, begin, roster, moved script
	draw, look, abandon                                          script
}

func newScripts() *scripts {
	daemon := func(parts ...string) script {
		return newScript(append([]string{allowedWhenFull}, parts...)...)
	}
	return &scripts{
		lease:    newScript(refusedWhenFull, luaRecord, luaLease),
		fill:     newScript(refusedWhenFull, luaRecord, luaSnapshot, luaCoverage, luaAdmit, luaFill),
		renew:    newScript(refusedWhenFull, luaRecord, luaSnapshot, luaCoverage, luaAdmit, luaRenew),
		release:  newScript(allowedWhenFull, luaRecord, luaRelease),
		register: newScript(allowedWhenFull, luaRegister),
		tick:     newScript(allowedWhenFull, luaTick),
		early:    daemon(luaEarlyPlain, luaSnapshot, luaCoverage, luaRecord, luaFences, luaEarly),
		confirm:  daemon(luaConfirmPlain, luaSnapshot, luaCoverage, luaRecord, luaFences, luaConfirm),
		intent:   daemon(luaHead, luaSnapshot, luaIntent),
		advance:  daemon(luaHead, luaAdvance),
		claim:    daemon(luaHead, luaClaim),
		begin:    daemon(luaHead, luaBegin),
		roster:   daemon(luaRoster),
		moved:    daemon(luaHead, luaMove),
		draw:     daemon(luaDraw),
		look:     newScript(readsOnly, luaHead, luaLook),
		abandon:  daemon(luaAbandon),
	}
}
