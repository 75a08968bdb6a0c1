-- The roster's half of MOVE (D7). KEYS[1] ROSTER; ARGV: roster, generation, term, revision. An older daemon's roster
-- never replaces a later one's. Answers the outcome.
local text = redis.call('GET', KEYS[1])
if text then
  local good, stored = pcall(cjson.decode, text)
  if good and type(stored) == 'table' and type(stored.term) == 'string' then
    if stored.term > ARGV[3] then return 'superseded' end
    if stored.term == ARGV[3] and stored.generation == ARGV[2] and tonumber(stored.revision) > tonumber(ARGV[4]) then
      return 'mismatch'
    end
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 'applied'
