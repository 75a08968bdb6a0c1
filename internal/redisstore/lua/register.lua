-- REGISTER (D7). KEYS[1] use; ARGV: who, milliseconds that it lasts.
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
