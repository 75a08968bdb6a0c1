-- Shared by FILL and RENEW; the same decision in Go is in internal/fence. admit answers why a load may not decide what the
-- record's value is, or nil when it may.
local function admit(r, token, coverage, now)
  if r.token ~= token then return 'no_lease' end
  if now >= r.ends then return 'lease_ended' end

  local kind, rest = string.sub(coverage, 1, 2), string.sub(coverage, 3)
  local seen = kind == 's:' and snapshot(rest)
  for x, e in string.gmatch(r.fences, '(%x+)%.(%x+)') do
    local covers = false
    if seen then
      covers = sees(seen, x)
    elseif kind == 'l:' then
      covers = e <= rest
    end
    if not covers then return 'not_covering' end
  end

  if (r.state == 'V' or r.state == 'N') and r.coverage ~= '-' then
    local newer = false
    local oldkind, oldrest = string.sub(r.coverage, 1, 2), string.sub(r.coverage, 3)
    if seen and oldkind == 's:' then
      local old = snapshot(oldrest)
      newer = old and dominates(seen, old)
    elseif kind == 'l:' and oldkind == 'l:' then
      newer = rest >= oldrest
    end
    if not newer then return 'not_newer' end
  end
  return nil
end
