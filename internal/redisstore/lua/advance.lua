-- ADVANCE (D4). KEYS[1] HEAD; ARGV: generation, term, wc, replid, new wc, sa ('-': as it is), the tick that belongs to sa.
local id = replid()
local outcome = compare(ARGV[1], ARGV[2], ARGV[3], id, ARGV[4])
if outcome ~= 'applied' then return answer(outcome, id) end
if ARGV[5] > ARGV[3] then redis.call('HSET', KEYS[1], 'wc', ARGV[5]) end
if ARGV[6] ~= '-' then redis.call('HSET', KEYS[1], 'sa', ARGV[6], 'tick', ARGV[7]) end
return answer(outcome, id)
