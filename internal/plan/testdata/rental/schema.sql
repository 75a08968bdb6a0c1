-- A shop that rents films out: tables, views and a function as the well-known sample databases have them.
CREATE TYPE rating AS ENUM ('G', 'PG', 'PG-13', 'R');
CREATE TABLE country (country_id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE city (city_id int PRIMARY KEY, name text NOT NULL, country_id int NOT NULL REFERENCES country);
CREATE TABLE address (address_id int PRIMARY KEY, street text NOT NULL, postal_code text, city_id int NOT NULL REFERENCES city);
CREATE TABLE store (store_id int PRIMARY KEY, address_id int NOT NULL REFERENCES address);
CREATE TABLE staff (
    staff_id int PRIMARY KEY, name text NOT NULL, store_id int NOT NULL REFERENCES store, address_id int NOT NULL REFERENCES address,
    active boolean NOT NULL DEFAULT true
);
CREATE TABLE customer (
    customer_id int PRIMARY KEY, store_id int NOT NULL REFERENCES store, first_name text NOT NULL, last_name text NOT NULL, email text,
    address_id int NOT NULL REFERENCES address, active boolean NOT NULL DEFAULT true, last_seen timestamptz
);
CREATE TABLE language (language_id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE category (category_id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE film (
    film_id int PRIMARY KEY, title text NOT NULL, language_id int NOT NULL REFERENCES language, rental_rate numeric(5, 2) NOT NULL,
    length int, rating rating NOT NULL, withdrawn_at timestamptz
);
CREATE TABLE actor (actor_id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE film_actor (
    film_id int NOT NULL REFERENCES film ON DELETE CASCADE, actor_id int NOT NULL REFERENCES actor, PRIMARY KEY (film_id, actor_id)
);
CREATE TABLE film_category (
    film_id int NOT NULL REFERENCES film ON DELETE CASCADE, category_id int NOT NULL REFERENCES category, PRIMARY KEY (film_id, category_id)
);
CREATE TABLE inventory (
    inventory_id int PRIMARY KEY, film_id int NOT NULL REFERENCES film ON DELETE CASCADE, store_id int NOT NULL REFERENCES store
);
CREATE TABLE rental (
    rental_id int PRIMARY KEY, inventory_id int NOT NULL REFERENCES inventory ON DELETE CASCADE, customer_id int NOT NULL REFERENCES customer ON DELETE CASCADE,
    rented_at timestamptz NOT NULL, due_at timestamptz NOT NULL, returned_at timestamptz
);
CREATE TABLE payment (
    payment_id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customer ON DELETE CASCADE, rental_id int NOT NULL REFERENCES rental ON DELETE CASCADE,
    amount numeric(5, 2) NOT NULL, paid_at timestamptz NOT NULL
);

-- The log carries whole old rows of what changes much, and the primary key of the rest.
ALTER TABLE address REPLICA IDENTITY FULL;
ALTER TABLE customer REPLICA IDENTITY FULL;
ALTER TABLE staff REPLICA IDENTITY FULL;
ALTER TABLE film REPLICA IDENTITY FULL;
ALTER TABLE category REPLICA IDENTITY FULL;
ALTER TABLE inventory REPLICA IDENTITY FULL;
ALTER TABLE rental REPLICA IDENTITY FULL;
ALTER TABLE payment REPLICA IDENTITY FULL;

CREATE VIEW customer_list AS
    SELECT c.customer_id AS id, c.first_name || ' ' || c.last_name AS name, a.street, a.postal_code, ci.name AS city, co.name AS country, c.store_id
    FROM customer c JOIN address a ON a.address_id = c.address_id JOIN city ci ON ci.city_id = a.city_id JOIN country co ON co.country_id = ci.country_id
    WHERE c.active;
CREATE VIEW film_list AS
    SELECT f.film_id AS id, f.title, min(ca.name) AS category, f.rental_rate, string_agg(a.name, ', ' ORDER BY a.name) AS actors
    FROM film f LEFT JOIN film_category fc ON fc.film_id = f.film_id LEFT JOIN category ca ON ca.category_id = fc.category_id
    LEFT JOIN film_actor fa ON fa.film_id = f.film_id LEFT JOIN actor a ON a.actor_id = fa.actor_id
    WHERE f.withdrawn_at IS NULL
    GROUP BY f.film_id, f.title, f.rental_rate;
CREATE VIEW sales_by_store AS
    SELECT i.store_id, count(*) AS rentals, sum(p.amount) AS total
    FROM payment p JOIN rental r ON r.rental_id = p.rental_id JOIN inventory i ON i.inventory_id = r.inventory_id
    GROUP BY i.store_id;
CREATE SCHEMA fn;
CREATE FUNCTION fn.in_stock(int) RETURNS boolean LANGUAGE sql STABLE AS
    'SELECT NOT EXISTS (SELECT FROM public.rental WHERE inventory_id = $1 AND returned_at IS NULL)';
