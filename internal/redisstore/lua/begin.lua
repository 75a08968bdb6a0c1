-- A new generation. KEYS[1] HEAD; ARGV: term, a term of another history that may be replaced although it is higher (or
-- nothing), then every field and value. Nothing of the old HEAD stays.
local id = replid()
local stored = redis.call('HGET', KEYS[1], 'term')
if stored and stored > ARGV[1] and stored ~= ARGV[2] then return answer('superseded', id) end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return answer('applied', id)
