-- HEAD's half of MOVE (D7). KEYS[1] HEAD; ARGV: generation, term, wc, replid, revision, publication; an empty
-- revision only compares.
local id = replid()
local outcome = compare(ARGV[1], ARGV[2], ARGV[3], id, ARGV[4])
if outcome == 'applied' and ARGV[5] ~= '' then
  local stored = redis.call('HGET', KEYS[1], 'rev')
  if stored and ARGV[5] < stored then
    outcome = 'mismatch'
  else
    redis.call('HSET', KEYS[1], 'rev', ARGV[5], 'pub', ARGV[6])
  end
end
return answer(outcome, id)
