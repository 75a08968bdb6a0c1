-- EARLY (D1). KEYS[1] record; ARGV: milliseconds that a record without a value outlives its lease, 1 to leave a fence
-- where nothing is stored, 2 to leave no value besides that would be kept, then a transaction and its end, any number of times. Answers the outcome.
local r = read(KEYS[1])
local outcome = 'absent'
for i = 3, #ARGV, 2 do
  local x, e = ARGV[i], ARGV[i + 1]
  if r.state ~= '-' or r.token or r.fences ~= '-' or ARGV[2] ~= '0' then
    local did = drop(r, x, e, ARGV[2] ~= '2')
    if outcome ~= 'removed' then outcome = did end
    if did ~= 'kept' or r.token then
      local list = fences(r)
      fence(list, x, e)
      if #list > maxfences then
        r.token = nil
        table.remove(list, 1)
        if did == 'kept' then list = {} end
      end
      setfences(r, list)
    end
  end
end
if r.text or outcome ~= 'absent' then store(r, tonumber(ARGV[1])) end
return outcome
