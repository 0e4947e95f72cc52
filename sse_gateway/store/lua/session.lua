-- One session: its keys, its numbering (the epoch rules), who owns it, and what may be done to it.

-- The replication id changes whenever another server, or the same one restarted, becomes the primary. It is
-- kept for at most 100 ms: a longer cache outlives a failback that lost writes.
local server_id, server_id_read_at = nil, 0
local function current_server(now)
  if not server_id or now < server_id_read_at or now - server_id_read_at >= 100 then
    server_id = string.match(redis.call("INFO", "replication"), "master_replid:(%x+)")
    server_id_read_at = now
  end
  return server_id
end

-- Whether keys can move to another server, for as long as this one runs.
local in_cluster = nil
local function keys_may_move()
  if in_cluster == nil then
    in_cluster = string.find(redis.call("INFO", "cluster"), "cluster_enabled:1", 1, true) ~= nil
  end
  return in_cluster
end

local KEY = NAMESPACE .. "sse:{"

local function session_id_of(keys)
  local id = keys[1] or ""
  if string.sub(id, 1, #KEY) == KEY and string.sub(id, -1) == "}" then
    id = string.sub(id, #KEY + 1, -2)
  end
  -- Any other character could make a key of another session, or of another Cluster slot.
  if #keys ~= 1 or #id > 128 or not string.find(id, "^[%w._:-]+$") or id == "." or id == ".." then
    refuse("BAD_SESSION", "KEYS[1] must be one session id (1 to 128 of A-Z a-z 0-9 . _ : -), bare or as "
      .. KEY .. "<id>}")
  end
  return id
end

-- One EXISTS over every key: while a Cluster slot moves, this fails before anything is written. Key by key, half a
-- session would be found here and the other half on the other node.
local function check_keys(s)
  local found = redis.pcall("EXISTS", s.meta, s.history, s.state, s.permissions, s.pending, s.settled, s.streams,
    s.answers, s.idempotency or s.meta)
  if type(found) ~= "table" then
    return
  end
  if string.find(found.err, "non local key", 1, true) or string.find(found.err, "TRYAGAIN", 1, true) then
    error({err = "TRYAGAIN the session's Cluster slot is moving; call again in a moment"})
  end
  error(found)
end

-- The session's names, and what time it is. With `events_only` nothing is asked or settled, as in nearly every
-- publish, and only what that needs is named.
--
-- Beside what is set here: absent (there is no meta yet), moved (another server wrote meta) and old_epoch (of a
-- session that moved), from `load`; next_due and open_until, from `load_deadlines`.
function session.find(keys, idempotency_key, events_only)
  local id = session_id_of(keys)
  local key = KEY .. id .. "}"
  -- Sixteen fields at once, no more: a Lua table grows by doubling, and is made anew each time.
  local s = {
    id = id,
    key = key,
    meta = key .. ":meta",
    history = key .. ":history",
    state = key .. ":state",
    channel = NAMESPACE .. "sse_events:" .. id,
    idempotency = false,      -- the key that holds the first result, where the caller gave one
    now = 0,                  -- ms since 1970
    server = "", epoch = "", seq = 0,
    owner = false, ended = false,
    bytes = 0, base = 0,      -- running totals: of everything ever kept, and of what was dropped since
    alive_until = 0,          -- when history and state will expire, as far as set
  }
  if idempotency_key and idempotency_key ~= "" then
    if #idempotency_key > 256 or string.find(idempotency_key, "[^\33-\126]") then
      refuse("BAD_REQUEST", "an idempotency key is 1 to 256 printable ASCII characters without spaces")
    end
    s.idempotency = key .. ":idem:" .. idempotency_key
  end
  local may_move = keys_may_move()
  if not events_only or may_move then
    s.permissions, s.pending, s.settled = key .. ":permissions", key .. ":pending", key .. ":settled"
    s.streams = key .. ":streams"
    s.answers = NAMESPACE .. "permission_responses:{" .. id .. "}"
    s.answers_channel = NAMESPACE .. "permission_response:" .. id
  end
  if may_move then
    check_keys(s)
  end
  local time
  s.now, time = clock.read()
  return s, time
end

-- Open the session. Nothing is written before `session.begin`.
function session.open(...)
  local s, time = session.find(...)
  session.load(s, time)
  return s
end

local function number(text)
  return text and tonumber(text) or 0
end

-- Never math.random: it begins with the same numbers after every restart.
local function new_epoch(s, time)
  return string.sub(redis.sha1hex(s.server .. time[1] .. "." .. time[2] .. s.id), 1, 10)
end

-- Read meta and settle the epoch, in memory.
--
-- No meta: nothing is known of earlier numbers, so a new epoch begins at 0. Another server than the one that
-- wrote last: it may lack the last writes, so a new epoch begins, but numbers and history go on; who holds a
-- cursor of the old epoch is honoured up to `prev_top`, the number found here.
function session.load(s, time)
  local meta = redis.call("HMGET", s.meta, "epoch", "seq", "server", "ended", "owner", "bytes", "base",
    "alive_until")
  local epoch = meta[1]
  s.server = current_server(s.now)
  s.seq = number(meta[2])
  s.ended, s.owner = meta[4], meta[5]
  s.bytes, s.base = number(meta[6]), number(meta[7])
  s.alive_until = number(meta[8])
  if not epoch then
    s.absent = true
  elseif meta[3] ~= s.server then
    s.moved, s.old_epoch = true, epoch
  else
    s.epoch = epoch
    return
  end
  s.epoch = new_epoch(s, time)
end

-- Write what `load` found out about the epoch. Every writing function calls this once it has checked
-- everything else.
function session.begin(s)
  if not s.absent and not s.moved then
    return
  end
  session.check_right("HSET", s.meta, "epoch", "")
  session.check_right("PEXPIRE", s.meta, "1")
  if s.absent then
    redis.call("DEL", s.history, s.state)
    -- Requests may have outlived a deleted meta: the next look has to go through them.
    redis.call("HSET", s.meta, "epoch", s.epoch, "seq", "0", "server", s.server,
      "next_due", redis.call("EXISTS", s.key .. ":pending"))
    redis.call("PEXPIRE", s.meta, META_MS)
  else
    redis.call("HSET", s.meta, "epoch", s.epoch, "server", s.server, "prev_epoch", s.old_epoch,
      "prev_top", whole(s.seq))
  end
  s.absent, s.moved = false, false
end

-- Begin a new epoch because history and meta do not belong together: nothing of before can be continued.
function session.renew(s)
  local _, time = clock.read()
  s.epoch = new_epoch(s, time)
  s.base, s.alive_until = s.bytes, 0
  redis.call("DEL", s.history, s.state)
  redis.call("HSET", s.meta, "epoch", s.epoch, "base", whole(s.base))
  redis.call("HDEL", s.meta, "prev_epoch", "prev_top")
end

-- When the earliest open request expires, or earlier (0: nothing is open), and when the latest does. Read where
-- needed: the hot path, publishing, is not.
function session.load_deadlines(s)
  if not s.next_due then
    local meta = redis.call("HMGET", s.meta, "next_due", "open_until")
    s.next_due, s.open_until = number(meta[1]), number(meta[2])
  end
end

-- Every character of more than one byte (RFC 3629), by the bytes it may begin and go on with.
local CHARACTERS = {"[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]",
  "[\225-\236\238\239][\128-\191][\128-\191]", "\237[\128-\159][\128-\191]",
  "\240[\144-\191][\128-\191][\128-\191]", "[\241-\243][\128-\191][\128-\191][\128-\191]",
  "\244[\128-\143][\128-\191][\128-\191]"}
local function is_utf8(text)
  if string.find(text, "[\128-\255]") then
    for _, character in ipairs(CHARACTERS) do
      -- By a space: what stood on both sides must not become a character.
      text = string.gsub(text, character, " ")
    end
  end
  return not string.find(text, "[\128-\255]")
end

function session.check_owner(s, owner)
  if owner and owner ~= "" then
    if #owner > 256 or not is_utf8(owner) then
      refuse("BAD_REQUEST", "an owner has at most 256 bytes, of UTF-8")
    end
    if s.owner and s.owner ~= owner then
      refuse("OWNER_CONFLICT", "the session belongs to another owner")
    end
  end
end

function session.set_owner(s, owner)
  if owner and owner ~= "" and not s.owner then
    redis.call("HSET", s.meta, "owner", owner)
    s.owner = owner
  end
end

-- Publishing reopens an ended session.
function session.reopen(s)
  if s.ended then
    redis.call("HDEL", s.meta, "ended")
    s.ended = false
  end
end

-- A script is not rolled back when it fails half-way, so the rights it will need are asked for first, with
-- a key or channel that the command will be used on.
function session.check_right(command, on, ...)
  if not redis.acl_check_cmd(command, on, ...) then
    refuse("NOT_PERMITTED", "this Redis user may not " .. command .. " " .. on .. "; see redis.acl")
  end
end

-- Viewers are streams whose token may answer, over all gateways but `except` whose last beat is fresh.
function session.presence(s, except)
  local streams, viewers, stale = 0, 0, {}
  local fields = redis.call("HGETALL", s.streams)
  for at = 1, #fields, 2 do
    local count, able, beat = string.match(fields[at + 1], "^(%d+):(%d+):(%d+)$")
    if count and s.now - tonumber(beat) <= PRESENCE_MS then
      if fields[at] ~= except then
        streams, viewers = streams + tonumber(count), viewers + tonumber(able)
      end
    elseif fields[at] ~= except then
      stale[#stale + 1] = fields[at]
    end
  end
  return streams, viewers, stale
end
