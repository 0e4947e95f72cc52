-- Durable events: an entry in the history, the newest state for the snapshot, and the live message.

-- How long history and state live from now on: never shorter than the longest open request.
local function life(s)
  return math.max(HISTORY_SECONDS, math.ceil((s.open_until - s.now) / 1000) + 60)
end

-- Drop entries from the old end until the rest has at most HISTORY_BYTES. `b` of an entry is the running
-- total up to and with it; `base` is a total at or before the first entry kept, since trimming by count does
-- not look at what it drops. So `base` is made exact first. The newest entry always stays.
local function trim_bytes(s)
  local from, base = "-", nil
  while true do
    local entries = redis.call("XRANGE", s.history, from, "+", "COUNT", 16)
    for _, entry in ipairs(entries) do
      local total = tonumber(entry[2][4])
      base = base or total - #entry[2][2]
      if s.bytes - base <= HISTORY_BYTES then
        redis.call("XTRIM", s.history, "MINID", entry[1])
        s.base = base
        return
      end
      base = total
      from = "(" .. entry[1]
    end
    if #entries == 0 then
      return
    end
  end
end

-- The last status of each of the last tool calls, and the last result. `order` holds the slots, 16 hex digits
-- each, the one touched longest ago first.
local function keep_status(s, value, call_id)
  local slot = string.sub(redis.sha1hex(call_id), 1, 16)
  local order = redis.call("HGET", s.state, "order") or ""
  if string.sub(order, -16) == slot then
    redis.call("HSET", s.state, "s:" .. slot, value)
    return
  end
  for at = 1, #order, 16 do
    if string.sub(order, at, at + 15) == slot then
      order = string.sub(order, 1, at - 1) .. string.sub(order, at + 16)
      break
    end
  end
  order = order .. slot
  while #order > 16 * TOOL_CALLS_KEPT do
    redis.call("HDEL", s.state, "s:" .. string.sub(order, 1, 16))
    order = string.sub(order, 17)
  end
  redis.call("HSET", s.state, "s:" .. slot, value, "order", order)
end

-- The rights that `append` needs.
function history.needs(s)
  return {
    {"XADD", s.history, "*", "d", ""},
    {"HSET", s.meta, "seq", ""},
    {"HSET", s.state, "order", ""},
    {"EXPIRE", s.history, "1"},
    {"PUBLISH", s.channel, ""},
  }
end

-- Put the checked object `text` into the envelope: return its members without the id, as the snapshot
-- sends them, less the opening brace.
function history.envelope(s, text, event)
  local front = ""
  if event.session_id == nil then
    front = '"session_id":"' .. s.id .. '",'
  end
  if event.timestamp == nil then
    front = front .. '"timestamp":"' .. clock.iso(s.now) .. '",'
  end
  return front .. string.sub(text, 2)
end

-- Number the event, keep it, publish it; return its id. The entry is written first and `seq` after it.
function history.append(s, kind, members, details)
  local seq = s.seq + 1
  local digits = whole(seq)
  local id = s.epoch .. "-" .. digits
  local data = '{"id":"' .. id .. '",' .. members
  local bytes = s.bytes + #data
  if details and details.request_id then
    redis.call("XADD", s.history, "MAXLEN", HISTORY_EVENTS, digits .. "-0", "d", data, "b", whole(bytes),
      "r", details.request_id)
  else
    redis.call("XADD", s.history, "MAXLEN", HISTORY_EVENTS, digits .. "-0", "d", data, "b", whole(bytes))
  end
  s.seq, s.bytes = seq, bytes
  if bytes - s.base > HISTORY_BYTES then
    trim_bytes(s)
    redis.call("HSET", s.meta, "seq", digits, "bytes", whole(bytes), "base", whole(s.base))
  else
    redis.call("HSET", s.meta, "seq", digits, "bytes", whole(bytes))
  end
  if kind == "tool_status" then
    keep_status(s, digits .. " {" .. members, details and details.call_id or "")
  elseif kind == "tool_result" then
    redis.call("HSET", s.state, "result", digits .. " {" .. members)
  end
  local seconds = life(s)
  redis.call("EXPIRE", s.history, seconds)
  redis.call("EXPIRE", s.state, seconds)
  redis.call("EXPIRE", s.meta, META_SECONDS)
  -- The event is kept: that nobody could be told of it now must not make it look refused.
  redis.pcall("PUBLISH", s.channel, data)
  return id
end
