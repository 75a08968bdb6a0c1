package freshet_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
)

// A service that answers over HTTP tells the errors of its reads apart: some are the caller's, and some pass.
func Example_errorsOfReads() {
	ctx := context.Background()
	cache, err := freshet.Open(ctx, freshet.Options{Config: example.file})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = freshet.Entry[int64, Product](cache, "produkt")
	fmt.Println(errors.Is(err, freshet.ErrUnknownEntry)) // a mistake of the program's, and known when it starts

	answer := func(err error) string {
		switch {
		case err == nil:
			return "200 OK"
		case errors.Is(err, freshet.ErrNotFound):
			return "404 Not Found"
		case errors.Is(err, freshet.ErrKey), errors.Is(err, freshet.ErrForeignToken):
			return "400 Bad Request"
		case errors.Is(err, freshet.ErrTokenNotReached):
			return "412 Precondition Failed"
		case errors.Is(err, freshet.ErrUnavailable), errors.Is(err, freshet.ErrTimeout), errors.Is(err, freshet.ErrClosed):
			return "503 Service Unavailable"
		}
		return "500 Internal Server Error"
	}
	type key struct{ OrderID, Number int64 } // the columns are int4 and int2
	lines, err := freshet.Entry[key, Line](cache, "line")
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = lines.Get(ctx, key{7, 1})
	fmt.Println(answer(err))
	_, err = lines.Get(ctx, key{7, 99})
	fmt.Println(answer(err))
	_, err = lines.Get(ctx, key{7, 1 << 40})
	fmt.Println(answer(err))
	_, err = lines.Get(ctx, key{7, 1}, freshet.After(freshet.Token{System: "1", Timeline: 1, XID: 3}))
	fmt.Println(answer(err))
	cache.Close()
	_, err = lines.Get(ctx, key{7, 2})
	fmt.Println(answer(err))
	// Output:
	// true
	// 200 OK
	// 404 Not Found
	// 400 Bad Request
	// 400 Bad Request
	// 503 Service Unavailable
}

// What an error of Commit says about the transaction: whether it is worth another try, and whether it may have been committed.
func Example_errorsOfCommits() {
	ctx := context.Background()
	away := example.write("away.yaml", "redis://127.0.0.1:1") // nobody listens there
	cache, err := freshet.Open(ctx, freshet.Options{Config: away})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	conn, err := pgx.Connect(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	commit := func(tx pgx.Tx, keys ...freshet.Key) string {
		switch token, err := cache.Commit(ctx, tx, keys...); {
		case err == nil:
			return "committed"
		case errors.Is(err, freshet.ErrSavepoint):
			return "untouched: the caller commits the transaction around it"
		case errors.Is(err, freshet.ErrNotFenced):
			return "rolled back, since Redis could not be had in time"
		case errors.Is(err, freshet.ErrNotCommitted):
			return "rolled back"
		case errors.Is(err, freshet.ErrOutcomeUnknown):
			return "the database knows what became of " + token.String()
		default:
			return err.Error()
		}
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(commit(savepoint, cache.Key("product", 1)))
	fmt.Println(commit(tx, cache.Key("product", 1).With(freshet.Strict())))
	// Output:
	// untouched: the caller commits the transaction around it
	// rolled back, since Redis could not be had in time
}

// A tag is a text of the load that is under way, of an entry with tags: by_hand. Anything else is ErrTag, and so is the read's error: the
// value would not go when the tag is ended.
func ExampleTag_mistakes() {
	ctx := context.Background()
	err := freshet.Tag(ctx, "tenant:7")
	fmt.Println("outside a load:", errors.Is(err, freshet.ErrTag))

	profiles, err := freshet.Entry(app.cache, "profile", freshet.Load(
		func(ctx context.Context, _ freshet.Querier, id string) (string, error) {
			_ = freshet.Tag(ctx, "") // no tag
			return id, nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = profiles.Get(ctx, "mistake")
	fmt.Println("no text:", errors.Is(err, freshet.ErrTag))
	// Output:
	// outside a load: true
	// no text: true
}

// What is invalidated by hand goes through the log, which a standby does not write: whoever reads from one has to say it to the primary.
func ExampleCache_Invalidate_errors() {
	_, err := app.cache.Invalidate(context.Background(), app.cache.Key("produkt", 1))
	switch {
	case errors.Is(err, freshet.ErrReadOnly):
		fmt.Println("this cache loads from a standby")
	case errors.Is(err, freshet.ErrUnavailable):
		fmt.Println("the same call may be made again")
	case errors.Is(err, freshet.ErrUnknownEntry), errors.Is(err, freshet.ErrKey):
		fmt.Println("no key of this file")
	}
	// Output: no key of this file
}
