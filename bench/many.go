package main

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet/freshet"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
)

// manyKeys is how many keys are read together.
const manyKeys = 100

// many measures GetMany of 100 keys: of which none is cached, against loading them one after the other and against statements that
// are sent together; and of which all are, against as many GETs sent together.
func many(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "many")
	if err != nil {
		return err
	}
	defer a.close()
	pool, err := pgxpool.New(ctx, a.url)
	if err != nil {
		return err
	}
	defer pool.Close()
	keys := make([]int, manyKeys)
	for i := range keys {
		keys[i] = i + 1
	}
	m := &manySides{application: a, pool: pool, keys: keys}
	if err := m.learn(ctx); err != nil {
		return err
	}
	misses, err := m.race(ctx, "missed", []manySide{
		{"sequential reads", m.drop, m.sequential},
		{"pipelined statements", nil, m.pipelined},
		{"GetMany", m.drop, m.getMany},
		{"GetMany, not stored", nil, m.bypass},
	})
	if err != nil {
		return err
	}
	b.report("many/misses/sequential", misses[0]/misses[2], "times as long as GetMany")
	b.report("many/misses/pipelined", misses[1]/misses[2], "times as long as GetMany")
	b.report("many/misses/pipelined/load", misses[1]/misses[3], "times as long as GetMany that stores nothing")
	hits, err := m.race(ctx, "cached", []manySide{{"GETs", nil, m.gets}, {"GetMany", nil, m.getMany}})
	if err != nil {
		return err
	}
	b.report("many/hits", hits[0]/hits[1], "of the rate of as many GETs sent together, which decode nothing")
	return nil
}

type manySides struct {
	*application

	pool  *pgxpool.Pool
	keys  []int
	names []string
}

type manySide struct {
	name   string
	before func(context.Context) error // not measured
	run    func(context.Context) error
}

// race runs all sides in turns, and returns their medians in nanoseconds.
func (m *manySides) race(ctx context.Context, what string, sides []manySide) ([]float64, error) {
	took := make([][]float64, len(sides))
	for round := range m.b.sizes.rounds*manyRounds + 1 {
		for i, side := range sides {
			if side.before != nil {
				if err := side.before(ctx); err != nil {
					return nil, err
				}
			}
			began := time.Now()
			if err := side.run(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", side.name, err)
			}
			if round > 0 { // the first one warms up
				took[i] = append(took[i], float64(time.Since(began)))
				m.b.sample(fmt.Sprintf("%s/keys=%d", what, len(m.keys)), side.name, took[i][round-1], "ns/op")
			}
		}
	}
	medians := make([]float64, len(sides))
	for i, side := range sides {
		medians[i] = median(took[i])
		m.b.printf("  %-22s %8.3f ms for %d keys\n", side.name, medians[i]/1e6, len(m.keys))
	}
	return medians, nil
}

// manyRounds is how often each side runs in a round.
const manyRounds = 20

// learn fills the cache once, and finds out what the records are called.
func (m *manySides) learn(ctx context.Context) error {
	if err := m.getMany(ctx); err != nil {
		return err
	}
	var cursor uint64
	for {
		page, err := m.client.Do(ctx, m.client.B().Scan().Cursor(cursor).Match("f:"+m.namespace+":*:"+table+".*:*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			return err
		}
		m.names = append(m.names, page.Elements...)
		if cursor = page.Cursor; cursor == 0 {
			break
		}
	}
	if len(m.names) != len(m.keys) {
		return fmt.Errorf("%d records of %d keys", len(m.names), len(m.keys))
	}
	return nil
}

// drop takes the values out of the cache.
func (m *manySides) drop(ctx context.Context) error {
	return m.client.Do(ctx, m.client.B().Unlink().Key(m.names...).Build()).Error()
}

func (m *manySides) getMany(ctx context.Context) error { return m.with(ctx) }

func (m *manySides) bypass(ctx context.Context) error { return m.with(ctx, freshet.Bypass()) }

func (m *manySides) with(ctx context.Context, options ...freshet.ReadOption) error {
	found, err := m.items.GetMany(ctx, m.keys, options...)
	if err != nil {
		return err
	}
	for i := range found {
		if found[i].Err != nil {
			return found[i].Err
		}
	}
	return nil
}

func (m *manySides) sequential(ctx context.Context) error {
	for _, key := range m.keys {
		if _, err := m.items.Get(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// pipelined is what an application without a cache does that knows to send its statements together.
func (m *manySides) pipelined(ctx context.Context) error {
	var batch pgx.Batch
	for _, key := range m.keys {
		batch.Queue("SELECT id, v, n FROM "+table+" WHERE id = $1", key)
	}
	results := m.pool.SendBatch(ctx, &batch)
	for range m.keys {
		var one item
		if err := results.QueryRow().Scan(&one.ID, &one.V, &one.N); err != nil {
			_ = results.Close()
			return err
		}
	}
	return results.Close()
}

func (m *manySides) gets(ctx context.Context) error {
	commands := make([]rueidis.Completed, len(m.names))
	for i, name := range m.names {
		commands[i] = m.client.B().Get().Key(name).Build()
	}
	for _, reply := range m.client.DoMulti(ctx, commands...) {
		if _, err := reply.AsBytes(); err != nil {
			return err
		}
	}
	return nil
}
