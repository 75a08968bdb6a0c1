-- CLAIM. KEYS[1] HEAD; ARGV: term. Answers the outcome, the replication id and HEAD as it was before, always.
local id = replid()
local outcome = 'applied'
local reply = { '', id }
for _, v in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = v end
local stored = redis.call('HMGET', KEYS[1], 'gen', 'term', 'wc', 'at')
if not stored[1] or not stored[2] or not stored[3] then
  outcome = 'mismatch'
elseif stored[2] > ARGV[1] then
  outcome = 'superseded'
elseif stored[4] and stored[4] ~= id then
  outcome = 'mismatch'
else
  redis.call('HSET', KEYS[1], 'term', ARGV[1])
end
reply[1] = outcome
return reply
