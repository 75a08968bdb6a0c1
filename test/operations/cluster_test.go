package operations

import (
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// TestClusterUsers: what the users of a cluster are allowed is enough for what they do, also while a slot is moved, and an
// application can write neither HEAD nor roster.
func TestClusterUsers(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	for _, node := range cluster.Masters {
		acl(t, node, block(t, document(t), "acl-cluster"))
	}
	open := func(user, password string) *redisstore.Store {
		s, err := redisstore.Open(t.Context(), redisstore.Options{URL: as(t, cluster.URL, user, password), Namespace: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	ours, app, looker := open("freshet", "daemon-secret"), open("shop_app", "app-secret"), open("shop_verify", "verify-secret")
	c, err := ours.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one := mvcc.Snapshot{Xmin: 10, Xmax: 10}
	head := fence.Head{Generation: "00000000000000aa", Term: fence.NewTerm(1, 9), System: "7", Timeline: 1, Publication: "p", Wi: 100, Wc: 100, Si: one}
	_, _, err = c.Claim(t.Context(), head.Term)
	must(err)
	must(c.NewGeneration(t.Context(), head))
	must(c.DrawTick(t.Context()))
	expect := redisstore.Expected{Generation: head.Generation, Term: head.Term, Wc: 100}
	must(c.Move(t.Context(), expect, []byte("{}"), 5, "p"))

	const key = "product:1"
	name := fence.LanePrefixes("shop", head.Generation, c.Generations(), "product.v.a:")[fence.LaneOf(key)] + key
	token := fence.Token(strings.Repeat("a", 32))
	reply, err := app.Lease(t.Context(), name, token, time.Minute)
	if err != nil || !reply.Granted || !reply.HeadFound {
		t.Fatalf("an application is granted %+v, %v", reply, err)
	}
	outcome, err := app.Fill(t.Context(), name, redisstore.FillRequest{
		Token: token, Coverage: fence.Coverage{Snapshot: one}, State: fence.Live, Payload: []byte("{}"), TTL: time.Minute,
	})
	if err != nil || outcome != fence.Filled {
		t.Fatalf("an application fills: %v, %v", outcome, err)
	}
	_, err = app.Tick(t.Context(), fence.LaneOf(key))
	must(err)
	must(app.Register(t.Context(), redisstore.Use{Entry: "product", Definition: "d"}, "me", time.Minute))
	_, found, err := app.Roster(t.Context())
	if err != nil || !found {
		t.Fatalf("an application has no roster: %v", err)
	}
	_, err = ours.Uses(t.Context(), []redisstore.Use{{Entry: "product", Definition: "d"}})
	must(err)
	survey, err := looker.Survey(t.Context())
	must(err)
	t.Cleanup(survey.Close)
	_, found, err = survey.Head(t.Context())
	if err != nil || !found {
		t.Fatalf("verify has no HEAD: %v", err)
	}
	must(survey.Walk(t.Context(), "f:shop:*", func(names []string) error {
		_, err := survey.Read(t.Context(), names)
		return err
	}))

	move := cluster.Open(t, fence.Slot(7), cluster.Masters[1], cluster.Masters[0])
	move.Key(t, "f:"+fence.LaneNamespace("shop", fence.Lanes, 7)+":head")
	_, err = c.Apply(t.Context(), redisstore.Batch{Expect: expect, Wi: 200, Si: one, Names: []string{name}, Advance: 200})
	must(err)
	_, err = c.Ticks(t.Context())
	must(err)
	_, err = c.Mend(t.Context(), head, []byte("{}"))
	must(err)
	_, err = ours.Sweep(t.Context(), func() redisstore.Live { return redisstore.Live{} })
	must(err)
	for _, node := range cluster.Masters {
		refusedNothing(t, node)
	}
	for _, what := range []string{"head", "roster"} {
		key := "f:" + fence.LaneNamespace("shop", fence.Lanes, 0) + ":" + what
		client := dial(t, cluster.Owner(fence.Slot(0)), "shop_app", "app-secret")
		if err := client.Do(t.Context(), client.B().Unlink().Key(key).Build()).Error(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
			t.Errorf("an application removes %s: %v", key, err)
		}
	}
}
