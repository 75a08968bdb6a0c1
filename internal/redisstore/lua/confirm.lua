-- CONFIRM (D3). KEYS[1] record; ARGV: milliseconds that a record without a value outlives its lease, then a transaction
-- and its end, any number of times. Answers the outcome.
local r = read(KEYS[1])
local outcome = 'absent'
for i = 2, #ARGV, 2 do
  local x, e = ARGV[i], ARGV[i + 1]
  if r.state ~= '-' or r.token or r.fences ~= '-' then
    local did = drop(r, x, e, true)
    local list = fences(r)
    if r.token then
      fence(list, x, e)
      setfences(r, list)
      if #list > maxfences then
        if did == 'kept' then did = 'removed' end
        r.state, r.token, r.fences = '-', nil, '-'
      end
    else
      local others = {}
      for _, f in ipairs(list) do
        if f[1] ~= x then others[#others + 1] = f end
      end
      setfences(r, others)
    end
    if outcome ~= 'removed' then outcome = did end
  end
end
store(r, tonumber(ARGV[1]))
return outcome
