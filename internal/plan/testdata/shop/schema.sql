CREATE EXTENSION citext;
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE status AS ENUM ('new', 'paid', 'sent');
CREATE TYPE other_status AS ENUM ('new', 'paid');
CREATE TYPE point3 AS (x int, y int, z int);
CREATE DOMAIN slug AS text CHECK (VALUE <> '');
CREATE DOMAIN short_slug AS slug CHECK (length(VALUE) < 10);

CREATE TABLE users (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    active boolean NOT NULL DEFAULT true,
    deleted_at timestamptz,
    score double precision,
    code char(3),
    nick citext,
    alias text COLLATE nocase,
    handle short_slug,
    level smallint,
    balance numeric(10, 2),
    born date,
    seen timestamptz,
    doc jsonb,
    kind regclass,
    place point3,
    shout text GENERATED ALWAYS AS (upper(name)) STORED
);
ALTER TABLE users REPLICA IDENTITY FULL;

CREATE TABLE products (id bigint PRIMARY KEY, name text, price numeric, category_id int NOT NULL, views bigint);
CREATE TABLE profiles (user_id bigint PRIMARY KEY, bio text, lang text);
-- user_id is in no identity: NOT NULL here, nullable in visits
CREATE TABLE addresses (id bigint PRIMARY KEY, user_id bigint NOT NULL, city text, "zip Code" text);
CREATE TABLE visits (id bigint PRIMARY KEY, user_id bigint, at timestamptz);
CREATE TABLE nameless (user_id bigint, note text);
CREATE TABLE silent (id bigint PRIMARY KEY, note text);
ALTER TABLE silent REPLICA IDENTITY NOTHING;

CREATE TABLE orders (
    id bigint PRIMARY KEY, user_id bigint NOT NULL, status status NOT NULL, other other_status, product_id int, note varchar(80), paid boolean, region int NOT NULL
);
CREATE UNIQUE INDEX orders_freshet ON orders (id, user_id, status);
ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_freshet;

CREATE TABLE memberships (user_id bigint, team_id int, role text, PRIMARY KEY (user_id, team_id));
CREATE TABLE teams (id int PRIMARY KEY, name text, archived boolean);
CREATE TABLE people (id bigint PRIMARY KEY, manager_id bigint, name text);
ALTER TABLE people REPLICA IDENTITY FULL;

CREATE TABLE types (
    i2 smallint, i4 int, i8 bigint, o oid, b boolean, u uuid, t text, v varchar(10), d date, ts timestamp, tz timestamptz, n numeric, y bytea, e status
);
ALTER TABLE types REPLICA IDENTITY FULL;

CREATE TABLE events (id bigint, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE mixed (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM (1) TO (100);
ALTER TABLE mixed_1 REPLICA IDENTITY FULL;
CREATE TABLE animals (id bigint PRIMARY KEY, name text);
CREATE TABLE dogs (breed text) INHERITS (animals);

CREATE SCHEMA stock;
CREATE TABLE stock.items (id bigint PRIMARY KEY, amount int);
CREATE TABLE stock.users (id bigint PRIMARY KEY, name text);
CREATE TABLE deferred (id bigint PRIMARY KEY DEFERRABLE, note text);

CREATE VIEW active_users AS SELECT id, name FROM users WHERE active;
CREATE VIEW order_counts AS SELECT user_id, count(*) AS n FROM orders WHERE status <> 'new' GROUP BY user_id;
CREATE VIEW busy_users AS SELECT u.id, u.name, c.n FROM active_users u LEFT JOIN order_counts c ON c.user_id = u.id;
CREATE VIEW top_users AS SELECT id, name FROM users ORDER BY score DESC, id LIMIT 10;
CREATE VIEW clocks AS SELECT id, now() AS at FROM users;
CREATE MATERIALIZED VIEW user_names AS SELECT id, name FROM users;
CREATE UNLOGGED TABLE scratch (id bigint PRIMARY KEY, note text);
CREATE TABLE secrets (id bigint PRIMARY KEY, note text);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE VIEW secret_notes AS SELECT id, note FROM secrets;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE remote (id bigint, note text) SERVER elsewhere;
CREATE TABLE fees (id bigint PRIMARY KEY, amount money);
CREATE TABLE "Odd Table" ("select" bigint PRIMARY KEY);
CREATE TABLE spread (id bigint, note text) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE spread_1 PARTITION OF spread FOR VALUES FROM (1) TO (100) SERVER elsewhere;
CREATE TABLE volatile (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE UNLOGGED TABLE volatile_1 PARTITION OF volatile FOR VALUES FROM (1) TO (100);

CREATE SCHEMA fn;
CREATE FUNCTION fn.price_of(bigint) RETURNS numeric LANGUAGE sql STABLE AS 'SELECT price FROM public.products WHERE id = $1';
CREATE FUNCTION fn.half(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 2';
CREATE FUNCTION fn.roll() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 4';
