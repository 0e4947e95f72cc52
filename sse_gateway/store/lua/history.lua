-- Durable events: an entry in the history, the newest state for the snapshot, and the live message.

local ENVELOPE_BYTES = 512 -- more than an id, a session id and a time take

-- Keep history, state and meta alive from now on: never shorter than the longest open request. Lives are set
-- SLACK_MS too long, and not anew until that is used up: it costs half as much as all the rest of a publish.
local REQUEST_MARGIN_MS = 60000
local function is_due(s)
  return s.now + HISTORY_SECONDS * 1000 > s.alive_until
end

-- Whether the lives, as they are set, hold until a request that is open until then has been settled.
function history.outlives(s, open_until)
  return open_until + REQUEST_MARGIN_MS <= s.alive_until
end

local function keep_alive(s)
  session.load_deadlines(s)
  local ms = math.max(HISTORY_SECONDS * 1000, s.open_until - s.now + REQUEST_MARGIN_MS) + SLACK_MS
  s.alive_until = s.now + ms
  redis.call("PEXPIRE", s.history, whole(ms))
  redis.call("PEXPIRE", s.state, whole(ms))
  redis.call("HSET", s.meta, "alive_until", whole(s.alive_until))
  redis.call("PEXPIRE", s.meta, META_MS)
end

-- Drop entries from the old end until the rest has at most HISTORY_BYTES. `b` of an entry is the running
-- total up to and with it; `base` is a total at or before the first entry kept, since trimming by count does
-- not look at what it drops. So `base` is made exact first. The newest entry always stays.
local function trim_bytes(s)
  local from, base, count = "-", nil, 1
  while true do
    local entries = redis.call("XRANGE", s.history, from, "+", "COUNT", count)
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
    -- Mostly one entry goes as one comes, and entries may be large.
    count = math.min(2 * count, 16)
  end
end

-- The last status of each of the last tool calls, and the last result. `order` holds the slots, 16 hex digits
-- each, the one touched longest ago first.
local function keep_status(s, value, call_id)
  local slot = string.sub(redis.sha1hex(call_id), 1, 16)
  local order = redis.call("HGET", s.state, "order")
  if not order then
    -- The key may be new, and without a life of its own.
    s.alive_until = 0
    order = ""
  end
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

-- Refuse unless this user may do all that `append` will do for an event of `kind` with so many `bytes`; without
-- them, all it may ever do. Each question costs as much as a small command, so none is asked in vain: where XADD
-- is the first to write, its own refusal is as good.
function history.check_rights(s, kind, bytes)
  if not bytes or s.absent or s.moved then
    session.check_right("XADD", s.history, "*", "d", "")
  end
  session.check_right("HSET", s.meta, "seq", "")
  session.check_right("PUBLISH", s.channel, "")
  if not bytes or s.bytes - s.base + bytes + ENVELOPE_BYTES > HISTORY_BYTES then
    session.check_right("XTRIM", s.history, "MINID", "0")
  end
  local with_state = kind == "tool_status" or kind == "tool_result"
  if not bytes or with_state or is_due(s) then
    session.check_right("PEXPIRE", s.history, "1")
  end
  if with_state then
    session.check_right("HSET", s.state, "order", "")
    session.check_right("HDEL", s.state, "order")
  end
  if s.ended then
    session.check_right("HDEL", s.meta, "ended")
  end
  if s.idempotency then
    session.check_right("SET", s.idempotency, "")
  end
end

-- Return what goes in front of the other members of the checked event: its own are kept.
function history.envelope(s, event)
  local front = ""
  if event.session_id == nil then
    front = '"session_id":"' .. s.id .. '",'
  end
  if event.timestamp == nil then
    front = front .. '"timestamp":"' .. clock.iso(s.now) .. '",'
  end
  return front
end

local KEPT = HISTORY_EVENTS .. "" -- Redis would format a number at every call

-- Keep one entry; return the event as it was kept, its id, and the running total.
local function add(s, digits, front, rest, request_id)
  local id = s.epoch .. "-" .. digits
  local data = '{"id":"' .. id .. '",' .. front .. rest
  local total = whole(s.bytes + #data)
  local added
  if request_id then
    added = redis.pcall("XADD", s.history, "MAXLEN", KEPT, digits .. "-0", "d", data, "b", total, "r", request_id)
  else
    added = redis.pcall("XADD", s.history, "MAXLEN", KEPT, digits .. "-0", "d", data, "b", total)
  end
  if type(added) ~= "table" then
    return data, id, total
  end
  if not string.find(added.err, "equal or smaller", 1, true) then
    error(added)
  end
  -- The history is ahead of `seq`: somebody wrote to it, or restored a part of it.
  session.renew(s)
  return add(s, digits, front, rest, request_id)
end

-- Number the event, keep it, publish it; return its id. The entry is written first and `seq` after it.
--
-- The event is `{`, its id, `front` and `rest`: two parts, since each join of them copies the whole. `request_id`
-- goes with a permission_request, `call_id` with a status.
function history.append(s, kind, front, rest, request_id, call_id)
  local digits = whole(s.seq + 1)
  local data, id, total = add(s, digits, front, rest, request_id)
  s.seq, s.bytes = s.seq + 1, s.bytes + #data
  if s.bytes - s.base > HISTORY_BYTES then
    trim_bytes(s)
    redis.call("HSET", s.meta, "seq", digits, "bytes", total, "base", whole(s.base))
  else
    redis.call("HSET", s.meta, "seq", digits, "bytes", total)
  end
  if kind == "tool_status" then
    keep_status(s, digits .. " {" .. front .. rest, call_id or "")
  elseif kind == "tool_result"
    and redis.call("HSET", s.state, "result", digits .. " {" .. front .. rest) == 1 then
    s.alive_until = 0
  end
  if is_due(s) then
    keep_alive(s)
  end
  -- The event is kept: that nobody could be told of it now must not make it look refused.
  redis.pcall("PUBLISH", s.channel, data)
  return id
end
