-- Snapshots are "xmin:xmax:x,x": see mvcc.Snapshot for what the parts mean.
local function snapshot(text)
  local low, high, running = string.match(text, '^(%x+):(%x+):([%x,]*)$')
  if not low then return nil end
  return { low = low, high = high, running = running }
end

local function sees(s, x)
  if x < s.low then return true end
  if x >= s.high then return false end
  return not string.find(s.running, x, 1, true)
end

local function dominates(s, t)
  if s.high < t.high then return false end
  for x in string.gmatch(s.running, '%x+') do
    if x >= t.high then return true end
    if sees(t, x) then return false end
  end
  return true
end
