-- CLAIM. KEYS[1] HEAD; ARGV: term. Answers the outcome, the replication id and HEAD, always.
local id = replid()
local outcome = 'applied'
local stored = redis.call('HMGET', KEYS[1], 'gen', 'term', 'wc')
if not stored[1] or not stored[2] or not stored[3] then
  outcome = 'mismatch'
elseif stored[2] > ARGV[1] then
  outcome = 'superseded'
else
  redis.call('HSET', KEYS[1], 'term', ARGV[1])
end
local reply = { outcome, id }
for _, v in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = v end
return reply
