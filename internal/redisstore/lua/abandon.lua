-- Removes the HEAD of a lane that is lost, unless it is a later daemon's. KEYS[1] HEAD; ARGV: term. Answers how many it removed.
local stored = redis.call('HGET', KEYS[1], 'term')
if not stored or stored > ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
