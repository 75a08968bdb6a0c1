-- A new generation. KEYS[1] HEAD; ARGV: term, a term of another history that may be replaced although it is higher (or
-- nothing), then every field and value. Nothing of the old HEAD stays. A lane's is bound to this history.
local id = replid()
local stored = redis.call('HGET', KEYS[1], 'term')
if stored and stored > ARGV[1] and stored ~= ARGV[2] then return answer('superseded', id) end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if redis.call('HGET', KEYS[1], 'lane') then redis.call('HSET', KEYS[1], 'at', id) end
return answer('applied', id)
