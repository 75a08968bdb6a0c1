package freshet

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/wal"
	"github.com/freshet/freshet/mvcc"
)

// TokenSQL is the statement that gives the text of the token of the transaction in which it runs, for those who commit
// by other means than Cache.Commit. It gives the transaction an id, also one that writes nothing else.
const TokenSQL = `SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
FROM pg_control_system()`

// Key names one key of one entry, for Commit and Intent.
type Key struct {
	cache   *Cache
	entry   string
	key     writtenKey
	load    fill.LoadFunc
	refresh bool
	strict  bool
	err     error           // why it is none
	several json.RawMessage // stands for more than one key: the message that says so
}

// KeyOption changes what Commit does about a key.
type KeyOption func(*Key)

// Refresh has Commit load the key once it has committed, and store the value under the rules of any other load, so that
// the next reader finds it. That is a matter of convenience: when it cannot be done, Commit succeeds all the same. Commit
// waits for it, for the entry's load_timeout at most.
func Refresh() KeyOption { return func(k *Key) { k.refresh = true } }

// Strict has Commit fence the key before COMMIT, and again after it: what is cached of it is removed, and nothing can be
// stored that does not contain the transaction, so that no read that begins after Commit has returned gets an older value
// from the cache. (GUARANTEES.md has the exceptions: the second after names moved, and, when a fence ends before the daemon has
// applied the commit, loads from a standby that lags.) Commit returns a second after the last fence, when no process can hold
// an older value in its memory, unless the entry says l1: off. When the store
// cannot be reached in time, the transaction is rolled back and the error is ErrNotFenced. From the fence to the end of
// the transaction, readers of the key load from the database, each for itself.
func Strict() KeyOption { return func(k *Key) { k.strict = true } }

// Key names a key of the entry for Commit and Intent.
func (t *Typed[K, V]) Key(key K, options ...KeyOption) Key {
	k := Key{cache: t.cache, entry: t.name, key: &keyValue[K]{codec: t.keys, key: key}, load: t.loadFunc(key)}
	return k.With(options...)
}

// Key names a key of an entry by its arguments, in the order of the entry's key template, for those who write what they
// do not read: Entry would want the code that loads it. What is wrong with it, Commit and Intent say.
func (c *Cache) Key(entry string, args ...any) Key {
	k := Key{cache: c, entry: entry, key: arguments(args)}
	declared, ok := c.config.Entries[entry]
	if !ok {
		k.err = fmt.Errorf("%w: %s", ErrUnknownEntry, entry)
		return k
	}
	if template, err := rule.ParseTemplate(declared.Key); err != nil {
		k.err = fmt.Errorf("entry %s: %w", entry, err)
	} else if n := len(template.Params()); n != len(args) {
		k.err = fmt.Errorf("%w: entry %s: its key has %d parameters, not %d", ErrKey, entry, n, len(args))
	}
	return k
}

// With is the key with options.
func (k Key) With(options ...KeyOption) Key {
	for _, option := range options {
		option(&k)
	}
	return k
}

// writtenKey is a key of a type that Key does not know.
type writtenKey interface {
	fill.Key
	// plain are the arguments where their Go types alone say what text they are, whatever type a parameter has.
	plain() ([]keytext.Arg, bool)
}

// keyValue is a request that may be used for as long as its Key is, and by several goroutines.
type keyValue[K any] struct {
	codec *keyCodec
	key   K
}

func (v *keyValue[K]) Args(params []rule.Param) ([]keytext.Arg, error) {
	return appendKey(nil, v.codec, params, &v.key)
}

func (v *keyValue[K]) plain() ([]keytext.Arg, bool) {
	values := []any{v.key}
	if v.codec.fields != nil {
		values = values[:0]
		for _, i := range v.codec.fields {
			values = append(values, reflect.ValueOf(&v.key).Elem().Field(i).Interface())
		}
	}
	return plainArgs(values)
}

// arguments are a key's arguments one by one.
type arguments []any

func (a arguments) Args(params []rule.Param) (args []keytext.Arg, err error) {
	if len(params) != len(a) {
		return nil, fmt.Errorf("the key has %d parameters here and %d there", len(a), len(params))
	}
	for i, v := range a {
		if args, err = appendArg(args, params[i], v); err != nil {
			return nil, err
		}
	}
	return args, nil
}

func (a arguments) plain() ([]keytext.Arg, bool) { return plainArgs(a) }

func plainArgs(values []any) (args []keytext.Arg, ok bool) {
	for _, v := range values {
		arg, ok := plainArg(reflect.ValueOf(v))
		if !ok {
			return nil, false
		}
		args = append(args, arg)
	}
	return args, true
}

// plainArg takes strings, integers, booleans and NULL. Of everything else, the parameter's type says what text it has.
func plainArg(v reflect.Value) (keytext.Arg, bool) {
	for v.IsValid() && v.Kind() == reflect.Pointer && !v.IsNil() && v.Type().NumMethod() == 0 {
		v = v.Elem()
	}
	switch {
	case !v.IsValid(), v.Kind() == reflect.Pointer && v.IsNil():
		return keytext.Arg{Null: true}, true
	case v.Kind() != reflect.String && v.Type().NumMethod() > 0:
		return keytext.Arg{}, false
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		arg, err := keytext.FromGo(keytext.Unknown, v.Interface())
		return arg, err == nil
	default:
		return keytext.Arg{}, false
	}
}

// spelled are a key's arguments for the log. The daemon spells the key from them, under its own types; here, types
// find mistakes early, and are needed for what has several texts. Nobody is asked for them unless they are needed.
func (k Key) spelled(ctx context.Context) ([]keytext.Arg, error) {
	params := k.cache.reader.Known(k.entry)
	if params == nil {
		if args, ok := k.key.plain(); ok {
			return args, nil
		}
		var err error
		if params, err = k.cache.reader.Params(ctx, k.entry); err != nil {
			return nil, public(err)
		}
	}
	for _, p := range params {
		if p.Type == "" {
			if args, ok := k.key.plain(); ok {
				return args, nil
			}
			return nil, fmt.Errorf("%w: entry %s: nobody knows the type of parameter %s yet, since no daemon has published it: "+
				"give the key as a string or an integer, or start the daemon first", ErrKey, k.entry, p.Name)
		}
	}
	args, err := k.key.Args(params)
	if err != nil {
		return nil, fmt.Errorf("%w: entry %s: %w", ErrKey, k.entry, err)
	}
	return args, nil
}

// messages spells the intents of keys: a JSON array of the messages to be put into the log.
func (c *Cache) messages(ctx context.Context, keys []Key) (string, error) {
	var (
		entries []string
		wider   []json.RawMessage
	)
	byEntry := map[string][][]keytext.Arg{}
	for i := range keys {
		k := &keys[i]
		if k.cache != c {
			return "", fmt.Errorf("%w: key %d was not made by an entry of this Cache", ErrKey, i)
		}
		if k.err != nil {
			return "", k.err
		}
		if k.several != nil {
			if err := withoutOptions(keys[i : i+1]); err != nil {
				return "", err
			}
			wider = append(wider, k.several)
			continue
		}
		args, err := k.spelled(ctx)
		if err != nil {
			return "", err
		}
		if byEntry[k.entry] == nil {
			entries = append(entries, k.entry)
		}
		byEntry[k.entry] = append(byEntry[k.entry], args)
	}
	all := append([]json.RawMessage{}, wider...)
	for _, entry := range entries {
		some, err := intent.Messages(entry, byEntry[entry])
		if err != nil {
			return "", fmt.Errorf("%w: entry %s: %w", ErrKey, entry, err)
		}
		all = append(all, some...)
	}
	text, err := json.Marshal(all)
	return string(text), err
}

const (
	// The bytes of a message are UTF-8 whatever the database's encoding is.
	emit = `pg_catalog.pg_logical_emit_message(true, '` + intent.Prefix + `', pg_catalog.convert_to(m::text, 'UTF8'))`

	intentSQL = `SELECT ` + emit + ` FROM pg_catalog.json_array_elements($1::json) AS m`

	// What became of the messages is selected, so that no planner takes it for something that nobody wants.
	writerSQL = `SELECT system_identifier::text, ` + wal.TimelineHexSQL + `, pg_catalog.pg_current_xact_id()::text,
		(SELECT count(` + emit + `) FROM pg_catalog.json_array_elements($1::json) AS m)
		FROM pg_catalog.pg_control_system()`
	// Without keys, a transaction that wrote nothing is not given an id.
	readerSQL = `SELECT system_identifier::text, ` + wal.TimelineHexSQL + `, coalesce(pg_catalog.pg_current_xact_id_if_assigned()::text, ''), 0
		FROM pg_catalog.pg_control_system()`
)

// Execer runs a statement in a transaction: pgx.Tx does, and SQL makes one of database/sql's.
type Execer interface {
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
}

// SQL makes an Execer of a transaction of database/sql.
func SQL(tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
},
) Execer {
	return sqlExecer(tx.ExecContext)
}

type sqlExecer func(ctx context.Context, query string, args ...any) (sql.Result, error)

// Exec implements Execer. There is no command tag to be had.
func (e sqlExecer) Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	_, err := e(ctx, query, args...)
	return pgconn.CommandTag{}, err
}

// Intent says, inside a transaction, that it affects keys: when it commits they are invalidated, like those that rules
// find, and when it is rolled back nothing happens. It is for transactions that are committed by other means than
// Commit; options of the keys, which are Commit's, are refused. Outside a transaction it takes effect at once.
func (c *Cache) Intent(ctx context.Context, tx Execer, keys ...Key) error {
	if err := withoutOptions(keys); err != nil {
		return fmt.Errorf("intent: %w", err)
	}
	if len(keys) == 0 {
		return nil
	}
	text, err := c.messages(ctx, keys)
	if err != nil {
		return fmt.Errorf("intent: %w", err)
	}
	if _, err := tx.Exec(ctx, intentSQL, text); err != nil {
		return fmt.Errorf("intent: %w", err)
	}
	return nil
}

// Commit commits a transaction together with its intent, to be held against reads: the keys are invalidated like those
// that rules find, whatever becomes of this process. It returns the transaction's token.
//
// The error is ErrNotCommitted when the transaction was rolled back, which every failure before COMMIT leads to, and
// ErrOutcomeUnknown, with a token, when nobody can tell. The transaction has to be the outermost one. Of one that was over before,
// the error is the driver's alone (pgx.ErrTxClosed, sql.ErrTxDone): whoever ended it knows how.
//
// Without keys it only makes a token: the zero one, which is no constraint on a read, when nothing was written.
func (c *Cache) Commit(ctx context.Context, tx pgx.Tx, keys ...Key) (Token, error) {
	if isSavepoint(tx) {
		return Token{}, fmt.Errorf("commit: %w", ErrSavepoint)
	}
	return c.commit(ctx, pgxTransaction{tx}, keys)
}

func (c *Cache) commit(ctx context.Context, tx transaction, keys []Key) (Token, error) {
	token, err := c.declare(ctx, tx, keys)
	if err != nil {
		return Token{}, abandon(ctx, tx, err)
	}
	strict := strictKeys(keys)
	if err := c.fence(ctx, token, strict); err != nil {
		return Token{}, abandon(ctx, tx, err)
	}
	if err := ctx.Err(); err != nil { // from here on, an end of ctx leaves the outcome unknown
		return Token{}, abandon(ctx, tx, err)
	}
	if err := tx.commit(ctx); err != nil {
		if tx.aborted(err) {
			return Token{}, fmt.Errorf("commit: %w: %w", ErrNotCommitted, err)
		}
		return token, fmt.Errorf("commit: %w: %w", ErrOutcomeUnknown, err)
	}
	c.fenceAgain(ctx, token, strict)
	if !token.IsZero() {
		token.After = c.after(ctx, token)
	}
	c.refresh(ctx, keys)
	return token, nil
}

// isSavepoint tells a transaction within another. pgx does not say so in any other way.
func isSavepoint(tx pgx.Tx) bool { return reflect.TypeOf(tx).String() == "*pgx.dbSimulatedNestedTx" }

// declare writes the intent and learns the transaction's name.
func (c *Cache) declare(ctx context.Context, tx transaction, keys []Key) (Token, error) {
	query, args := readerSQL, []any(nil)
	if len(keys) > 0 {
		text, err := c.messages(ctx, keys)
		if err != nil {
			return Token{}, err
		}
		query, args = writerSQL, []any{text}
	}
	var (
		system, timeline, xid string
		written               int64
	)
	if err := tx.query(ctx, query, args, &system, &timeline, &xid, &written); err != nil {
		return Token{}, fmt.Errorf("write the intent: %w", err)
	}
	if xid == "" {
		return Token{}, nil
	}
	return mvcc.ParseToken(strings.Join([]string{system, timeline, xid}, "."))
}

// abandon rolls back a transaction that cannot be committed as it was asked for.
func abandon(ctx context.Context, tx transaction, why error) error {
	if tx.over(why) {
		return fmt.Errorf("commit: %w", why)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := tx.rollback(ctx); err != nil && !tx.over(err) {
		why = errors.Join(why, err) // the connection is gone, and the transaction with it
	}
	return fmt.Errorf("commit: %w: %w", ErrNotCommitted, why)
}

func strictKeys(keys []Key) (strict []fill.Written) {
	for i := range keys {
		if keys[i].strict {
			strict = append(strict, fill.Written{Entry: keys[i].entry, Key: keys[i].key})
		}
	}
	return strict
}

func (c *Cache) fence(ctx context.Context, token Token, keys []fill.Written) error {
	if len(keys) == 0 {
		return nil
	}
	return public(c.reader.Fence(ctx, token.XID, keys))
}

// fenceAgain cannot fail a transaction that is committed. The fences from before COMMIT hold most probably, and whatever
// they let through is invalidated as ever.
func (c *Cache) fenceAgain(ctx context.Context, token Token, keys []fill.Written) {
	if len(keys) == 0 {
		return
	}
	err := c.reader.FenceAgain(context.WithoutCancel(ctx), token.XID, keys)
	if err == nil {
		err = c.reader.Forgotten(ctx, keys)
	}
	if err != nil {
		c.logger.WarnContext(ctx, "a strict commit is not known to have reached everybody; until the daemon has applied it, somebody may read an older value",
			slog.Any("err", err))
	}
}

// afterPatience bounds the wait for a position. Without it a token is as good, and some reads with it are slower.
const afterPatience = 250 * time.Millisecond

// after is a position behind the commit that has just returned; 0 when the database does not say in time, or when the
// Cache's own database is not the one that the transaction was committed in.
func (c *Cache) after(ctx context.Context, token Token) mvcc.LSN {
	ctx, cancel := context.WithTimeout(ctx, afterPatience)
	defer cancel()
	server, at, err := c.loader.Position(ctx)
	if err != nil || server.System != token.System || server.Timeline != token.Timeline {
		return 0
	}
	return at
}

// refreshes is how many keys are refreshed at a time.
const refreshes = 8

func (c *Cache) refresh(ctx context.Context, keys []Key) {
	var group errgroup.Group
	group.SetLimit(refreshes)
	for i := range keys {
		if k := &keys[i]; k.refresh {
			group.Go(func() error {
				if err := c.reader.Refresh(ctx, k.entry, k.key, k.load); err != nil {
					c.logger.DebugContext(ctx, "refresh after commit", slog.Any("err", err))
				}
				return nil
			})
		}
	}
	_ = group.Wait() // what went wrong was counted
}
