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

local function session_id_of(keys)
  local id = #keys == 1 and keys[1] or ""
  local prefix = NAMESPACE .. "sse:{"
  if string.sub(id, 1, #prefix) == prefix and string.sub(id, -1) == "}" then
    id = string.sub(id, #prefix + 1, -2)
  end
  -- Any other character could make a key of another session, or of another Cluster slot.
  if #id > 128 or not string.find(id, "^[%w._:-]+$") or id == "." or id == ".." then
    refuse("BAD_SESSION", "KEYS[1] must be one session id (1 to 128 of A-Z a-z 0-9 . _ : -), bare or as "
      .. prefix .. "<id>}")
  end
  return id
end

-- Open the session. Nothing is written before `session.begin`.
function session.open(keys, idempotency_key)
  local id = session_id_of(keys)
  local key = NAMESPACE .. "sse:{" .. id .. "}"
  local s = {
    id = id,
    meta = key .. ":meta",
    history = key .. ":history",
    state = key .. ":state",
    permissions = key .. ":permissions",
    pending = key .. ":pending",
    settled = key .. ":settled",
    streams = key .. ":streams",
    answers = NAMESPACE .. "permission_responses:{" .. id .. "}",
    channel = NAMESPACE .. "sse_events:" .. id,
    answers_channel = NAMESPACE .. "permission_response:" .. id,
  }
  if idempotency_key and idempotency_key ~= "" then
    if #idempotency_key > 256 or string.find(idempotency_key, "[^\33-\126]") then
      refuse("BAD_REQUEST", "an idempotency key is 1 to 256 printable ASCII characters without spaces")
    end
    s.idempotency = key .. ":idem:" .. idempotency_key
  end
  -- One EXISTS over every key: while a Cluster slot moves, this fails before anything is written. Key by
  -- key, half a session would be found here and the other half on the other node.
  local found = redis.pcall("EXISTS", s.meta, s.history, s.state, s.permissions, s.pending, s.settled,
    s.streams, s.answers, s.idempotency or s.meta)
  if type(found) == "table" then
    session.refuse_access(found.err)
  end
  s.now, s.micros = clock.read()
  session.load(s)
  return s
end

function session.refuse_access(problem)
  if string.find(problem, "non local key", 1, true) or string.find(problem, "TRYAGAIN", 1, true) then
    error({err = "TRYAGAIN the session's Cluster slot is moving; call again in a moment"})
  end
  if string.find(problem, "NOPERM", 1, true) or string.find(problem, "ACL", 1, true) then
    refuse("NOT_PERMITTED", "this Redis user may not read the session's keys; see redis.acl")
  end
  error({err = problem})
end

local function number(text)
  return text and tonumber(text) or 0
end

-- Read meta and settle the epoch, in memory.
--
-- No meta: nothing is known of earlier numbers, so a new epoch begins at 0. Another server than the one that
-- wrote last: it may lack the last writes, so a new epoch begins, but numbers and history go on; who holds a
-- cursor of the old epoch is honoured up to `prev_top`, the number found here.
function session.load(s)
  local meta = redis.call("HMGET", s.meta, "epoch", "seq", "server", "prev_epoch", "prev_top", "ended", "owner",
    "bytes", "base", "next_due", "open_until")
  s.server = current_server(s.now)
  s.epoch, s.seq = meta[1], number(meta[2])
  s.prev_epoch, s.prev_top = meta[4], number(meta[5])
  s.ended, s.owner = meta[6], meta[7]
  s.bytes, s.base = number(meta[8]), number(meta[9])
  s.next_due, s.open_until = number(meta[10]), number(meta[11])
  if not s.epoch then
    s.absent = true
    -- Requests may have outlived a deleted meta: look through them at the first chance.
    s.next_due = 1
  elseif meta[3] ~= s.server then
    s.prev_epoch, s.prev_top = s.epoch, s.seq
    s.moved = true
  end
  if s.absent or s.moved then
    -- Never math.random: it begins with the same numbers after every restart.
    s.epoch = string.sub(redis.sha1hex(s.server .. s.micros .. s.id), 1, 10)
  end
end

-- Write what `load` found out about the epoch. Every writing function calls this once it has checked
-- everything else.
function session.begin(s)
  if s.absent then
    redis.call("DEL", s.history, s.state)
    redis.call("HSET", s.meta, "epoch", s.epoch, "seq", "0", "server", s.server, "next_due", "1")
    redis.call("EXPIRE", s.meta, META_SECONDS)
  elseif s.moved then
    redis.call("HSET", s.meta, "epoch", s.epoch, "server", s.server, "prev_epoch", s.prev_epoch,
      "prev_top", whole(s.prev_top))
  end
  s.absent, s.moved = nil, nil
end

function session.check_owner(s, owner)
  if owner and owner ~= "" then
    if #owner > 256 then
      refuse("BAD_REQUEST", "an owner has at most 256 bytes")
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

-- A script is not rolled back when it fails half-way, so the rights it will need are asked for first.
-- `needs` is a list of commands with a key or channel each.
function session.check_rights(needs)
  for _, need in ipairs(needs) do
    if not redis.acl_check_cmd(unpack(need)) then
      refuse("NOT_PERMITTED", "this Redis user may not " .. need[1] .. " " .. need[2] .. "; see redis.acl")
    end
  end
end

-- Viewers are streams whose token may answer, over all gateways whose last beat is fresh.
function session.presence(s)
  local streams, viewers, stale = 0, 0, {}
  local fields = redis.call("HGETALL", s.streams)
  for at = 1, #fields, 2 do
    local count, able, beat = string.match(fields[at + 1], "^(%d+):(%d+):(%d+)$")
    if count and s.now - tonumber(beat) <= PRESENCE_MS then
      streams, viewers = streams + tonumber(count), viewers + tonumber(able)
    else
      stale[#stale + 1] = fields[at]
    end
  end
  return streams, viewers, stale
end
