-- Begins a count of ticks under a new name. KEYS[1] tick; ARGV: the tick.
return redis.call('SET', KEYS[1], ARGV[1])
