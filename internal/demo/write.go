package demo

import (
	"context"
	"fmt"
	"math/big"
	"time"
)

// raisePrice sets a price that the product never had, in the writer's session, and notes it.
func (s *stage) raisePrice(ctx context.Context, id int64) (price string, committed time.Time, err error) {
	price, err = nextPrice(s.ledger.last(productRow(id)))
	if err != nil {
		return "", time.Time{}, err
	}
	committed, err = s.ledger.write(productRow(id), price, func() error {
		if _, err := s.session.Exec(ctx, setPrice, id, price); err != nil {
			return fmt.Errorf("change price of product %d: %w", id, err)
		}
		return nil
	})
	return price, committed, err
}

// nextPrice is some cents more, exactly.
func nextPrice(price string) (string, error) {
	p, ok := new(big.Rat).SetString(price)
	if !ok {
		return "", fmt.Errorf("price %q is not a number", price)
	}
	return p.Add(p, big.NewRat(7, 100)).FloatString(2), nil
}

// move sets another city in the writer's session and notes it.
func (s *stage) move(ctx context.Context, user int64) (city string, committed time.Time, err error) {
	city = nextCity(s.ledger.last(userRow(user)))
	committed, err = s.ledger.write(userRow(user), city, func() error {
		_, err := s.session.Exec(ctx, "UPDATE addresses SET city = $2 WHERE user_id = $1", user, city)
		if err != nil {
			return fmt.Errorf("change city of user %d: %w", user, err)
		}
		return nil
	})
	return city, committed, err
}

// nextCity goes round a list that is long enough for a city not to come back soon.
func nextCity(city string) string {
	cities := []string{
		"Lisbon", "Oslo", "Vienna", "Ghent", "Turin", "Porto", "Malmo", "Graz", "Aarhus", "Basel", "Cork", "Delft", "Essen", "Faro",
		"Gdansk", "Helsinki", "Izmir", "Jena", "Kiel", "Lyon", "Mons", "Nantes", "Odense", "Prague", "Riga", "Split", "Tartu", "Utrecht",
		"Vigo", "Warsaw", "York", "Zagreb",
	}
	for i, c := range cities {
		if c == city {
			return cities[(i+1)%len(cities)]
		}
	}
	return cities[0]
}

// hasAddress tells whether shop.sql gave the user one.
func hasAddress(user int64) bool { return user%5 != 0 }
