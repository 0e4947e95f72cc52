-- sse_read: everything a stream needs to begin or to go on, as of one moment.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  the cursor "<epoch>-<seq>", or ""
-- ARGV[2]  without a cursor: "snapshot" (state), "all" (entries from the oldest) or "none"
-- ARGV[3]  about how many bytes of entries to return; at least one entry comes
-- Returns  {owner, ended "1" or "", epoch, top, verdict, oldest, {seq, event, request_id or "", ...}, more 0 or 1,
--           {request_id, envelope without id, expires_ms, seq asked at, ...}, {envelope without id, ...}, now_ms}
--          verdict: none (no cursor) | ok | trimmed | epoch | rolled_back | ahead | malformed
--          oldest: where the verdict is neither none nor ok, the first seq that is kept (top + 1 if none is), else 0

local READ_AT_ONCE = 64

-- Entries from `from` on: the flat list, and whether more remain.
local function page(s, from, page_bytes)
  local flat, bytes = {}, 0
  local start = whole(from) .. "-0"
  while true do
    local entries = redis.call("XRANGE", s.history, start, whole(s.seq) .. "-0", "COUNT", READ_AT_ONCE)
    for _, entry in ipairs(entries) do
      local fields = entry[2]
      if bytes > 0 and bytes + #fields[2] > page_bytes then
        return flat, 1
      end
      bytes = bytes + #fields[2]
      flat[#flat + 1] = tonumber(string.match(entry[1], "^%d+"))
      flat[#flat + 1] = fields[2]
      flat[#flat + 1] = fields[6] or ""
    end
    if #entries < READ_AT_ONCE then
      return flat, 0
    end
    start = "(" .. entries[#entries][1]
  end
end

local function oldest(s)
  local first = redis.call("XRANGE", s.history, "-", "+", "COUNT", 1)[1]
  return first and tonumber(string.match(first[1], "^%d+")) or s.seq + 1
end

-- Judge a cursor; where it can be honoured, also return the entries behind it.
local function resume(s, cursor, page_bytes)
  local epoch, digits = string.match(cursor, "^(%x+)-(%d+)$")
  if not epoch or #epoch ~= 10 or #digits > 15 or string.find(epoch, "%u") then
    return "malformed"
  end
  local seq = tonumber(digits)
  if epoch == s.epoch then
    if seq > s.seq then
      return "ahead"
    end
  else
    local before = redis.call("HMGET", s.meta, "prev_epoch", "prev_top")
    if epoch ~= before[1] then
      return "epoch"
    end
    if seq > tonumber(before[2]) then
      return "rolled_back"
    end
  end
  if seq == s.seq then
    return "ok", {}, 0
  end
  local entries, more = page(s, seq + 1, page_bytes)
  if entries[1] ~= seq + 1 then
    return "trimmed"
  end
  return "ok", entries, more
end

local function open_requests(s)
  local flat = {}
  local pending = redis.call("ZRANGE", s.pending, 0, -1, "WITHSCORES")
  for at = 1, #pending, 2 do
    local request_id = pending[at]
    local found = redis.call("HMGET", s.permissions, "json:" .. request_id, "expires:" .. request_id)
    if found[1] then
      flat[#flat + 1] = request_id
      flat[#flat + 1] = found[1]
      flat[#flat + 1] = tonumber(found[2])
      flat[#flat + 1] = tonumber(pending[at + 1])
    end
  end
  return flat
end

-- The statuses and the last result in the order they were published; the oldest are left out when all together
-- are larger than a page.
local function state(s, page_bytes)
  local fields = redis.call("HGETALL", s.state)
  local kept = {}
  for at = 1, #fields, 2 do
    if fields[at] ~= "order" then
      local seq, data = string.match(fields[at + 1], "^(%d+) (.*)$")
      kept[#kept + 1] = {tonumber(seq), data}
    end
  end
  table.sort(kept, function(one, other) return one[1] > other[1] end)
  local shown, bytes = {}, 0
  for _, item in ipairs(kept) do
    bytes = bytes + #item[2]
    if bytes > page_bytes and #shown > 0 then
      break
    end
    table.insert(shown, 1, item[2])
  end
  return shown
end

function functions.read(keys, args)
  local s = session.open(keys)
  local cursor, mode, page_bytes = args[1] or "", args[2] or "snapshot", tonumber(args[3]) or 1048576
  if mode ~= "snapshot" and mode ~= "all" and mode ~= "none" then
    refuse("BAD_REQUEST", "the mode is snapshot, all or none")
  end
  session.begin(s)
  settle.due(s)
  local verdict, entries, more = "none", nil, nil
  if cursor ~= "" then
    verdict, entries, more = resume(s, cursor, page_bytes)
  elseif mode == "all" then
    entries, more = page(s, 1, page_bytes)
  end
  local reset = verdict ~= "ok" and verdict ~= "none"
  local with_state = reset or (cursor == "" and mode == "snapshot")
  return {s.owner or "", s.ended and "1" or "", s.epoch, s.seq, verdict, reset and oldest(s) or 0,
    entries or {}, more or 0, open_requests(s), with_state and state(s, page_bytes) or {}, s.now}
end
