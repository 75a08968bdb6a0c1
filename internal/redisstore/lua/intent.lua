-- INTENT (D3). KEYS[1] HEAD; ARGV: generation, term, wc, replid, wi, si. Wi and Si only grow.
local id = replid()
local outcome = compare(ARGV[1], ARGV[2], ARGV[3], id, ARGV[4])
if outcome ~= 'applied' then return answer(outcome, id) end
local h = redis.call('HMGET', KEYS[1], 'wi', 'si')
local wi, si = h[1], h[2]
if not wi or ARGV[5] > wi then wi = ARGV[5] end
local a, b = snapshot(si or '-'), snapshot(ARGV[6])
if not a then
  si = ARGV[6]
elseif b then
  if b.high > a.high then a, b = b, a end
  local running = {}
  for x in string.gmatch(a.running, '%x+') do
    if not sees(b, x) then running[#running + 1] = x end
  end
  si = (running[1] or a.high) .. ':' .. a.high .. ':' .. table.concat(running, ',')
end
redis.call('HSET', KEYS[1], 'wi', wi, 'si', si)
return answer(outcome, id)
