-- The demo's shop: 10,000 products in 250 categories, 10,000 users with their profiles, 8,000 addresses. The same rows
-- every time.
CREATE TABLE categories (
	id   integer PRIMARY KEY,
	name text NOT NULL
);

CREATE TABLE products (
	id          bigint PRIMARY KEY,
	category_id integer NOT NULL REFERENCES categories,
	name        text NOT NULL,
	price       numeric(10, 2) NOT NULL CHECK (price > 0),
	stock       integer NOT NULL
);

CREATE TABLE users (
	id    bigint PRIMARY KEY,
	name  text NOT NULL,
	email text NOT NULL
);

CREATE TABLE profiles (
	user_id bigint PRIMARY KEY REFERENCES users,
	bio     text NOT NULL
);

CREATE TABLE addresses (
	id      bigint PRIMARY KEY,
	user_id bigint NOT NULL UNIQUE REFERENCES users,
	street  text NOT NULL,
	city    text NOT NULL
);

-- A cached entry is found by category_id and by user_id: the log has to carry the old values of both, so that a product
-- that changes its category drops the page of the category that it leaves.
ALTER TABLE products REPLICA IDENTITY FULL;
ALTER TABLE addresses REPLICA IDENTITY FULL;

INSERT INTO categories
SELECT n, (ARRAY['Kitchen', 'Garden', 'Office', 'Outdoor', 'Bathroom', 'Bedroom', 'Workshop', 'Travel', 'Sports', 'Music'])[1 + n % 10]
	|| ' ' || (ARRAY['essentials', 'tools', 'textiles', 'lighting', 'storage'])[1 + n / 10 % 5] || ' ' || (1 + n / 50)
FROM generate_series(0, 249) n;

INSERT INTO products
SELECT n, n % 250,
	(ARRAY['Oak', 'Steel', 'Linen', 'Copper', 'Ceramic', 'Walnut', 'Glass', 'Cotton', 'Bamboo', 'Leather'])[1 + n * 7 % 10] || ' '
		|| (ARRAY['teapot', 'lamp', 'chair', 'basket', 'blanket', 'knife', 'desk', 'mug', 'shelf', 'backpack', 'kettle', 'clock',
			'mirror', 'bench', 'vase', 'tray', 'pillow'])[1 + n * 11 % 17] || ' ' || n,
	round((4.90 + (n * 7919 % 24500) / 100.0)::numeric, 2), n * 31 % 200
FROM generate_series(1, 10000) n;

INSERT INTO users
SELECT n, first || ' ' || last, lower(first) || '.' || lower(last) || n || '@example.com'
FROM generate_series(1, 10000) n,
	LATERAL (SELECT (ARRAY['Ada', 'Bela', 'Chen', 'Dina', 'Emil', 'Fatima', 'Goran', 'Hanna', 'Ines', 'Jonas', 'Kemal', 'Lena',
			'Mateo', 'Nora', 'Omar', 'Paula'])[1 + n * 5 % 16] AS first,
		(ARRAY['Adler', 'Brandt', 'Costa', 'Dumont', 'Eriksen', 'Fischer', 'Garcia', 'Horvat', 'Ivanov', 'Jansen', 'Kaya', 'Larsen',
			'Moreau', 'Novak', 'Okafor', 'Peeters', 'Rossi'])[1 + n * 3 % 17] AS last) names;

INSERT INTO profiles
SELECT n, (ARRAY['Reads on trains.', 'Bakes on Sundays.', 'Repairs old radios.', 'Runs in the rain.', 'Collects maps.'])[1 + n % 5]
FROM generate_series(1, 10000) n;

-- Every fifth user has none: a LEFT JOIN with something to do.
INSERT INTO addresses
SELECT n, n, (ARRAY['Harbour Street', 'Mill Lane', 'Station Road', 'Church Hill', 'Orchard Way'])[1 + n % 5] || ' ' || (1 + n % 120),
	(ARRAY['Lisbon', 'Oslo', 'Vienna', 'Ghent', 'Turin', 'Porto', 'Malmo', 'Graz'])[1 + n * 3 % 8]
FROM generate_series(1, 10000) n WHERE n % 5 <> 0;

ANALYZE;
