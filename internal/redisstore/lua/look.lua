-- Reads a lane's HEAD for a reader. KEYS[1] HEAD; ARGV: fields. Answers their values, or nothing where HEAD was begun in another
-- history than this server's: there it vouches for nothing.
if redis.call('HGET', KEYS[1], 'at') ~= replid() then return {} end
return redis.call('HMGET', KEYS[1], unpack(ARGV))
