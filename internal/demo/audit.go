package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
)

// audited is the comparison of what is cached with the database.
type audited struct {
	cached int    // live values in Redis
	stale  int    // of them, different from the database
	read   int    // prices read through gateway and library
	wrong  int    // of them, different from the database
	sample string // one that differs
}

// truthQuery says for every key of every entry what the database has.
const truthQuery = `
	SELECT 'product:' || id, row_to_json(q)::text FROM (SELECT id, name, price FROM products) q
	UNION ALL
	SELECT 'user:' || id || ':profile', row_to_json(q)::text FROM (SELECT u.id, u.name, p.bio, a.city FROM users u
		JOIN profiles p ON p.user_id = u.id LEFT JOIN addresses a ON a.user_id = u.id) q
	UNION ALL
	SELECT 'category:' || category_id, json_agg(json_build_object('id', id, 'name', name, 'price', price))::text
	FROM products GROUP BY category_id
	UNION ALL
	SELECT 'tag:' || id, json_build_object('id', id, 'price', price::text)::text FROM products`

// audit compares every value in Redis under a live name with the database, and what readers get of the rows that were
// written. Nobody may write meanwhile, and everything written must have been applied.
func (s *stage) audit(ctx context.Context) (audited, error) {
	a, err := s.auditRedis(ctx)
	if err != nil {
		return a, err
	}
	const rows = 200
	for id := int64(1); id <= rows; id++ {
		for _, r := range s.priceReaders(id) {
			price, err := r.read(ctx)
			if err != nil {
				return a, fmt.Errorf("read through the %s: %w", r.name, err)
			}
			a.read++
			if want := s.ledger.last(productRow(id)); price != want {
				a.wrong++
				a.sample = fmt.Sprintf("product %d through the %s: %s, want %s", id, r.name, price, want)
			}
		}
	}
	return a, nil
}

// auditRedis is the comparison of Redis alone.
func (s *stage) auditRedis(ctx context.Context) (audited, error) {
	truth, err := s.truth(ctx)
	if err != nil {
		return audited{}, err
	}
	roster, err := s.roster(ctx)
	if err != nil {
		return audited{}, err
	}
	var a audited
	for _, e := range roster.Entries {
		prefix := rule.KeyPrefix(namespace, roster.Generation, e)
		names, err := s.names(ctx, prefix)
		if err != nil {
			return a, err
		}
		for chunk := range slices.Chunk(names, 500) {
			if err := s.compare(ctx, &a, prefix, chunk, truth); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

func (s *stage) truth(ctx context.Context) (map[string]string, error) {
	rows, err := s.pool.Query(ctx, truthQuery)
	if err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	defer rows.Close()
	truth := map[string]string{}
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, fmt.Errorf("read the database: %w", err)
		}
		truth[key] = value
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	return truth, nil
}

// names are the keys in Redis that start with the prefix.
func (s *stage) names(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	for cursor := uint64(0); ; {
		page, err := s.client.Do(ctx, s.client.B().Scan().Cursor(cursor).Match(prefix+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			return nil, fmt.Errorf("scan Redis: %w", err)
		}
		names = append(names, page.Elements...)
		if cursor = page.Cursor; cursor == 0 {
			break
		}
	}
	slices.Sort(names) // a scan may return a key twice
	return slices.Compact(names), nil
}

func (s *stage) compare(ctx context.Context, a *audited, prefix string, names []string, truth map[string]string) error {
	values, err := s.client.Do(ctx, s.client.B().Mget().Key(names...).Build()).ToArray()
	if err != nil {
		return fmt.Errorf("read Redis: %w", err)
	}
	for i, value := range values {
		text, err := value.AsBytes()
		if rueidis.IsRedisNil(err) {
			continue // its TTL ended meanwhile
		}
		if err != nil {
			return fmt.Errorf("read Redis: %w", err)
		}
		record, err := fence.ParseRecord(text)
		if err != nil {
			return fmt.Errorf("read %s: %w", names[i], err)
		}
		if !record.State.Live() {
			continue
		}
		a.cached++
		key := strings.TrimPrefix(names[i], prefix)
		want, exists := truth[key]
		same := !exists
		cached, err := envelope.JSONOf(record.Payload)
		if err != nil {
			return fmt.Errorf("compare %s: %w", names[i], err)
		}
		if exists && record.State == fence.Live {
			if same, err = sameJSON(cached, []byte(want)); err != nil {
				return fmt.Errorf("compare %s: %w", names[i], err)
			}
		}
		if exists && record.State == fence.Negative || !exists && record.State == fence.Live && string(cached) != "[]" {
			same = false
		}
		if !same {
			a.stale++
			a.sample = fmt.Sprintf("%s: cached %s, the database has %s", key, cached, want)
		}
	}
	return nil
}

// sameJSON compares two texts as values; the elements of an array, which have no order here, as a set.
func sameJSON(a, b []byte) (bool, error) {
	first, err := canonicalJSON(a)
	if err != nil {
		return false, err
	}
	second, err := canonicalJSON(b)
	return bytes.Equal(first, second), err
}

func canonicalJSON(text []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("decode %q: %w", text, err)
	}
	list, isList := value.([]any)
	if !isList {
		return json.Marshal(value)
	}
	parts := make([][]byte, len(list))
	for i, element := range list {
		part, err := json.Marshal(element)
		if err != nil {
			return nil, err
		}
		parts[i] = part
	}
	slices.SortFunc(parts, bytes.Compare)
	return bytes.Join(parts, []byte{','}), nil
}
