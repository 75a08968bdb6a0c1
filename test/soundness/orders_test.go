package soundness

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/rule"
)

// ordersTables are fourteen tables about people who order and write.
const ordersTables = `
CREATE TABLE teams (id int PRIMARY KEY, name text NOT NULL, plan text NOT NULL);
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL, team_id int, active boolean NOT NULL, bio text);
CREATE TABLE profiles (user_id int PRIMARY KEY, city text, about text);
CREATE TABLE settings (user_id int PRIMARY KEY, theme text, letters boolean);
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric(6, 2) NOT NULL, category int NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, status text NOT NULL, placed_at timestamptz NOT NULL, note text);
CREATE TABLE order_items (order_id int NOT NULL, product_id int NOT NULL, quantity int NOT NULL, PRIMARY KEY (order_id, product_id));
CREATE TABLE posts (id int PRIMARY KEY, author_id int NOT NULL, title text NOT NULL, published boolean NOT NULL, score int);
CREATE TABLE comments (id int PRIMARY KEY, post_id int NOT NULL, author_id int NOT NULL, body text, hidden boolean NOT NULL);
CREATE TABLE tags (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE post_tags (post_id int NOT NULL, tag_id int NOT NULL, PRIMARY KEY (post_id, tag_id));
CREATE TABLE follows (follower_id int NOT NULL, followee_id int NOT NULL, PRIMARY KEY (follower_id, followee_id));
CREATE TABLE blocks (user_id int NOT NULL, blocked_id int NOT NULL, PRIMARY KEY (user_id, blocked_id));
CREATE TABLE events (id int NOT NULL, user_id int NOT NULL, kind text NOT NULL, shard int NOT NULL, PRIMARY KEY (id, user_id, shard)) PARTITION BY LIST (shard);
CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0, 1);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (2, 3, 4);
`

// newOrders are 320 users, 560 orders, 400 posts and what belongs to them.
func newOrders(random *rand.Rand) large {
	l := large{writer: writer{random}}
	l.tables = []filled{
		{name: "teams", rows: 40, writes: 1},
		{name: "users", rows: 320, writes: 3},
		{name: "profiles", rows: 320, writes: 1},
		{name: "settings", rows: 320, writes: 1},
		{name: "products", rows: 120, writes: 2},
		{name: "orders", rows: 560, writes: 4},
		{name: "order_items", joins: 1100, writes: 3},
		{name: "posts", rows: 400, writes: 3},
		{name: "comments", rows: 800, writes: 3},
		{name: "tags", rows: 30, writes: 1},
		{name: "post_tags", joins: 700, writes: 2},
		{name: "follows", joins: 900, writes: 2},
		{name: "blocks", joins: 200, writes: 1},
		{name: "events", rows: 900, writes: 2},
	}
	truth, user := l.oneOf("true", "true", "false"), l.of("users")
	team := func() string { return l.maybe(l.id("teams")) }
	for name, columns := range map[string][]column{
		"teams":       {{"id", l.of("teams")}, {"name", l.named("Team")}, {"plan", l.oneOf("'free'", "'paid'")}},
		"users":       {{"id", user}, {"name", l.named("User")}, {"email", l.named("Mail")}, {"team_id", team}, {"active", truth}, {"bio", l.long}},
		"profiles":    {{"user_id", user}, {"city", l.named("City")}, {"about", l.named("About")}},
		"settings":    {{"user_id", user}, {"theme", l.oneOf("'dark'", "'light'")}, {"letters", truth}},
		"products":    {{"id", l.of("products")}, {"name", l.named("Product")}, {"price", l.amount}, {"category", l.small}},
		"orders":      {{"id", l.of("orders")}, {"user_id", user}, {"status", l.oneOf("'new'", "'paid'", "'sent'")}, {"placed_at", l.moment}, {"note", l.named("Note")}},
		"order_items": {{"order_id", l.of("orders")}, {"product_id", l.of("products")}, {"quantity", l.small}},
		"posts":       {{"id", l.of("posts")}, {"author_id", user}, {"title", l.named("Post")}, {"published", truth}, {"score", l.small}},
		"comments":    {{"id", l.of("comments")}, {"post_id", l.of("posts")}, {"author_id", user}, {"body", l.named("Comment")}, {"hidden", l.oneOf("true", "false", "false")}},
		"tags":        {{"id", l.of("tags")}, {"name", l.named("Tag")}},
		"post_tags":   {{"post_id", l.of("posts")}, {"tag_id", l.of("tags")}},
		"follows":     {{"follower_id", user}, {"followee_id", user}},
		"blocks":      {{"user_id", user}, {"blocked_id", user}},
		"events":      {{"id", l.of("events")}, {"user_id", user}, {"kind", l.oneOf("'in'", "'out'")}, {"shard", l.small}},
	} {
		l.table(name).columns = columns
	}
	return l
}

// ordersEntries are the queries of the entries, by the table whose id their parameter is.
var ordersEntries = map[string][]string{
	"users": {
		// each row that matters tells the key
		"SELECT id, name, email, active FROM users WHERE id = @p",
		"SELECT id, name, bio FROM users WHERE id = @p AND active",
		"SELECT city, about FROM profiles WHERE user_id = @p",
		"SELECT theme, letters FROM settings WHERE user_id = @p",
		"SELECT id, status, placed_at FROM orders WHERE user_id = @p ORDER BY id",
		"SELECT id, note FROM orders WHERE user_id = @p AND status <> 'sent' ORDER BY id",
		"SELECT count(*) AS open FROM orders WHERE user_id = @p AND status = 'new'",
		"SELECT id, title FROM posts WHERE author_id = @p AND published ORDER BY id",
		"SELECT id, title, score FROM posts WHERE author_id = @p ORDER BY score DESC NULLS LAST, id LIMIT 3",
		"SELECT followee_id FROM follows WHERE follower_id = @p ORDER BY 1",
		"SELECT follower_id FROM follows WHERE followee_id = @p ORDER BY 1",
		"SELECT u.name, p.city, s.theme FROM users u LEFT JOIN profiles p ON p.user_id = u.id LEFT JOIN settings s ON s.user_id = u.id WHERE u.id = @p",
		"SELECT id, kind, shard FROM events WHERE user_id = @p ORDER BY id, shard",
		// some tell it by what they are joined to
		"SELECT u.name, t.name AS team, t.plan FROM users u LEFT JOIN teams t ON t.id = u.team_id WHERE u.id = @p",
		"SELECT o.id, p.name, i.quantity FROM orders o JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id WHERE o.user_id = @p ORDER BY 1, 2, 3",
		"SELECT p.id, p.title FROM follows f JOIN posts p ON p.author_id = f.followee_id AND p.published WHERE f.follower_id = @p ORDER BY 1",
		"SELECT u.id, u.name FROM follows f JOIN users u ON u.id = f.followee_id WHERE f.follower_id = @p AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.user_id = @p AND b.blocked_id = u.id) ORDER BY 1",
		"SELECT c.id, c.body, p.title FROM comments c JOIN posts p ON p.id = c.post_id WHERE c.author_id = @p AND NOT c.hidden ORDER BY 1",
		// what matters is more than the rows that are there
		"SELECT id, place FROM (SELECT id, author_id, rank() OVER (ORDER BY score DESC NULLS LAST, id) AS place FROM posts WHERE published) r WHERE author_id = @p ORDER BY 1",
		"SELECT count(*) AS others FROM users WHERE id <> @p AND active",
	},
	"orders": {
		"SELECT user_id, status, note FROM orders WHERE id = @p",
		"SELECT product_id, quantity FROM order_items WHERE order_id = @p ORDER BY 1",
		"SELECT coalesce(sum(quantity), 0) AS pieces FROM order_items WHERE order_id = @p",
		"SELECT o.id, o.status, u.name FROM orders o JOIN users u ON u.id = o.user_id WHERE o.id = @p",
		"SELECT p.id, p.name, p.price, i.quantity FROM order_items i JOIN products p ON p.id = i.product_id WHERE i.order_id = @p ORDER BY 1",
	},
	"posts": {
		"SELECT p.id, p.title, u.name FROM posts p JOIN users u ON u.id = p.author_id WHERE p.id = @p AND p.published",
		"SELECT c.id, c.body, u.name FROM comments c LEFT JOIN users u ON u.id = c.author_id WHERE c.post_id = @p AND NOT c.hidden ORDER BY 1",
		"SELECT t.id, t.name FROM post_tags pt JOIN tags t ON t.id = pt.tag_id WHERE pt.post_id = @p ORDER BY 1",
		"SELECT title, (SELECT count(*) FROM comments c WHERE c.post_id = posts.id) AS n FROM posts WHERE id = @p",
	},
	"teams": {
		"SELECT o.id, o.status FROM users u JOIN orders o ON o.user_id = u.id WHERE u.team_id = @p ORDER BY 1",
	},
}

// ordersOthers are the entries whose parameters are other values.
func ordersOthers(l large) []watched {
	numbers := domain{cast: "int8", values: []string{"0", "1", "2", "3", "4"}}
	status := domain{cast: "text", values: []string{"new", "paid", "sent"}}
	some := drawDistinct("int4", l.of("users"))
	some.values = some.values[:8]
	prefix := domain{cast: "text", values: []string{"User 1%", "User 22%", "User 300", "User 31_"}}
	one := func(query, key string, domains ...domain) watched {
		return watched{query: query, key: key, domains: domains, ordered: strings.Contains(query, "ORDER BY")}
	}
	return []watched{
		one("SELECT id, status FROM orders WHERE user_id = @p ORDER BY placed_at DESC, id LIMIT @q", "k:{p}:{q}", some, domain{cast: "int8", values: []string{"1", "3"}}),
		one("SELECT id, title FROM posts WHERE author_id = @p AND score > @q ORDER BY id", "k:{p}:{q}", some, numbers),
		one("SELECT p.id, p.name FROM products p WHERE p.category = @p AND p.price >= @q ORDER BY 1", "k:{p}:{q}", numbers, domain{cast: "numeric", values: []string{"1", "4.50", "8"}}),
		one("SELECT id, body FROM comments WHERE author_id = @p AND NOT hidden ORDER BY id DESC LIMIT @q", "k:{p}:{q}", some, domain{cast: "int8", values: []string{"2"}}),
		one("SELECT id, title FROM posts WHERE score < @p ORDER BY id LIMIT 5", "k:{p}", numbers),
		one("SELECT product_id, quantity FROM order_items WHERE quantity >= @p ORDER BY 2 DESC, 1, order_id LIMIT 20", "k:{p}", numbers),
		one("SELECT i.order_id FROM order_items i JOIN orders o ON o.id = i.order_id WHERE o.status = @p AND i.quantity > @q ORDER BY 1", "k:{p}:{q}", status, numbers),
		one("SELECT id, name FROM users WHERE name LIKE @p ORDER BY id", "k:{p}", prefix),
		one("SELECT id, name, price FROM products WHERE price < @p ORDER BY price, id LIMIT 10", "k:{p}", domain{cast: "numeric", values: []string{"1", "3", "7.5"}}),
		one("SELECT category, count(*) AS n FROM products GROUP BY category ORDER BY 1", "all"),
		one("SELECT t.plan, count(*) AS n FROM users u JOIN teams t ON t.id = u.team_id GROUP BY t.plan ORDER BY 1", "all"),
	}
}

// newOrdersFollower watches them all.
func newOrdersFollower(t *testing.T, random *rand.Rand) *follower {
	t.Helper()
	l := newOrders(random)
	var ddl strings.Builder
	ddl.WriteString(ordersTables)
	for i := range l.tables {
		if name := l.tables[i].name; name != "events" {
			ddl.WriteString("ALTER TABLE " + name + " REPLICA IDENTITY FULL;\n")
		}
	}
	h, url, catalog := openLarge(t, l, ddl.String())
	h.partial = []string{"events"} // partitions have their primary key alone
	var all []watched
	for _, table := range []string{"users", "orders", "posts", "teams"} {
		for _, query := range ordersEntries[table] {
			all = append(all, watched{query: query, key: "k:{p}", domains: []domain{drawDistinct("int4", l.of(table))}, ordered: strings.Contains(query, "ORDER BY")})
		}
	}
	for _, w := range append(all, ordersOthers(l)...) {
		if err := h.watch(catalog, w); err != nil {
			t.Fatalf("%s: %v", w.query, err)
		}
	}
	h.attend(url, catalog)
	return h
}

// TestOrders is the domain by which the rules' precision is judged: of every table the log carries whole old rows.
func TestOrders(t *testing.T) {
	t.Parallel()
	seed, limit := settings(t)
	h := newOrdersFollower(t, rand.New(rand.NewPCG(seed, 4)))
	counts := h.measure(limit)
	for class, least := range map[rule.Class]int{rule.Exact: 16, rule.Tag: 11, rule.Group: 4, rule.Broad: 7} {
		if c := counts[class]; c == nil || c.entries < least {
			t.Errorf("fewer than %d entries whose coarsest rule is %s", least, class)
		}
	}
	h.judge(seed, counts)
}
