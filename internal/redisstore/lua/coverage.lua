-- Shared by FILL, RENEW, EARLY and CONFIRM: "s:" and the snapshot that a value was read under, or "l:" and the position that a
-- standby had replayed. The same decisions in Go are in internal/fence. What is neither covers nothing.
local function coverage(text)
  local kind, rest = string.sub(text, 1, 2), string.sub(text, 3)
  if kind == 'l:' then return { replay = rest } end
  return { seen = kind == 's:' and snapshot(rest) or nil }
end

local function covers(c, x, e)
  if c.replay then return e <= c.replay end
  return c.seen and sees(c.seen, x) or false
end

local function follows(c, old)
  if c.replay then return old.replay and c.replay >= old.replay end
  return c.seen and old.seen and dominates(c.seen, old.seen)
end
