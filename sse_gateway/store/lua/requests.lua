-- Permission requests: what one must look like, and how it is asked.
--
-- Fields of the permissions hash, each followed by ":<request_id>":
--   json    the request's envelope without id, in the asker's bytes    data  where in it the request stands
--   state   pending | approved | denied | expired | cancelled | consumed
--   digest  what binds a decision to the arguments                     tool  the tool's name
--   asked, expires, decided   ms since 1970                            seq   of its event
--   decision  JSON                                                     answer  for recognising a repetition
--   worker  who claimed it

local FIELDS = {"json", "data", "state", "digest", "tool", "asked", "expires", "decided", "seq", "decision",
  "answer", "worker"}
local OPTION_KINDS = {allow_once = true, allow_session = true, allow_always = true, reject_once = true,
  reject_always = true}
local RISK_LEVELS = {low = true, medium = true, high = true}

local function bad(sentence)
  refuse("BAD_REQUEST", "the permission request " .. sentence)
end

function requests.check_id(request_id)
  if not request_id or #request_id > 128 or not string.find(request_id, "^[%w._:-]+$")
    or request_id == "." or request_id == ".." then
    refuse("BAD_REQUEST", "a request_id is 1 to 128 of the characters A-Z a-z 0-9 . _ : -")
  end
end

local function check_text(data, name, longest)
  local value = data[name]
  if json.given(value) and (type(value) ~= "string" or #value > longest) then
    bad("has a " .. name .. " that is not a string of at most " .. longest .. " bytes")
  end
end

local function check_options(options)
  if type(options) ~= "table" or #options > 32 then
    bad("has options that are not a list of at most 32")
  end
  local seen = {}
  for _, option in pairs(options) do
    if type(option) ~= "table" or type(option.id) ~= "string" or not string.find(option.id, "^[%w._:-]+$")
      or #option.id > 128 or seen[option.id] or type(option.label) ~= "string"
      or not OPTION_KINDS[option.kind] then
      bad("has an option that is not {id, label, kind} with an id of its own and a known kind")
    end
    seen[option.id] = true
  end
end

-- Milliseconds since 1970 at which the request expires.
local function deadline(s, data)
  local at
  if json.given(data.expires_at) then
    at = type(data.expires_at) == "string" and clock.parse(data.expires_at)
    if not at then
      bad("has an expires_at that is not ISO-8601 with a zone")
    end
  elseif json.given(data.expires_in) then
    if type(data.expires_in) ~= "number" then
      bad("has an expires_in that is not a number of seconds")
    end
    at = s.now + math.floor(data.expires_in * 1000)
  else
    at = s.now + PERMISSION_SECONDS * 1000
  end
  if not (at > s.now and at - s.now <= LONGEST_DEADLINE_MS) then
    bad("must expire in the future, at most 23 hours ahead")
  end
  return at
end

-- Check everything a request says that can be checked without looking into Redis.
local function check(data)
  if type(data.tool_name) ~= "string" or data.tool_name == "" or #data.tool_name > 256 then
    bad("needs a tool_name of 1 to 256 bytes")
  end
  if json.given(data.request_id) then
    requests.check_id(type(data.request_id) == "string" and data.request_id)
  end
  if json.given(data.risk_level) and not RISK_LEVELS[data.risk_level] then
    bad("has a risk_level other than low, medium or high")
  end
  if json.given(data.status) and data.status ~= "pending" then
    bad("has a status other than pending")
  end
  if json.given(data.args_digest) and (type(data.args_digest) ~= "string"
    or #data.args_digest > 256 or not string.find(data.args_digest, "^[%w:+/=._-]+$")) then
    bad("has an args_digest that is not 1 to 256 of A-Z a-z 0-9 : + / = . _ -")
  end
  if json.given(data.editable) and type(data.editable) ~= "boolean" then
    bad("has an editable that is not true or false")
  end
  if json.given(data.options) then
    check_options(data.options)
  end
  check_text(data, "title", 1024)
  check_text(data, "description", 65536)
  check_text(data, "tool_call_id", 256)
  check_text(data, "timestamp", 64)
end

-- Return one stored request as a table, or nil.
function requests.find(s, request_id)
  local names = {}
  for at, field in ipairs(FIELDS) do
    names[at] = field .. ":" .. request_id
  end
  local values = redis.call("HMGET", s.permissions, unpack(names))
  local found = {id = request_id}
  for at, field in ipairs(FIELDS) do
    found[field] = values[at]
  end
  return found.state and found or nil
end

-- The asker's own bytes of the request, out of its envelope.
function requests.object(request)
  local from, to = string.match(request.data, "^(%d+) (%d+)$")
  return string.sub(request.json, tonumber(from), tonumber(to))
end

-- What sse_ask, sse_decision and sse_cancel return.
function requests.answer(s, request)
  if request.state ~= "pending" then
    return '{"status":"decided","decision":' .. request.decision .. "}"
  end
  local _, viewers = session.presence(s)
  return '{"status":"pending","request_id":"' .. request.id .. '","expires_at":"'
    .. clock.iso(tonumber(request.expires)) .. '","id":"' .. s.epoch .. "-" .. request.seq
    .. '","viewers":' .. viewers .. "}"
end

function requests.answer_of(s, request_id)
  session.begin(s)
  settle.due(s)
  local request = requests.find(s, request_id)
  if not request then
    refuse("UNKNOWN_REQUEST", "the session has no request " .. request_id)
  end
  return requests.answer(s, request)
end

-- Forget what was decided more than an hour ago.
local function trim_decisions(s)
  local old = redis.call("ZRANGEBYSCORE", s.settled, "-inf", whole(s.now - DECISION_KEPT_MS),
    "LIMIT", 0, DECISIONS_TRIMMED)
  for _, request_id in ipairs(old) do
    local names = {}
    for at, field in ipairs(FIELDS) do
      names[at] = field .. ":" .. request_id
    end
    redis.call("HDEL", s.permissions, unpack(names))
    redis.call("ZREM", s.settled, request_id)
  end
end

local function keep_alive(s, key, ms)
  if redis.call("PTTL", key) < ms then
    redis.call("PEXPIRE", key, whole(ms))
  end
end

-- Ask: `text` is the tidied event, `event` the same decoded. Returns what sse_ask returns.
function requests.ask(s, text, event, owner, raw)
  local data = event.data
  local envelope = json.members(text, "the event")
  local place = envelope.data
  if type(data) ~= "table" or not place or string.sub(text, place[1], place[1]) ~= "{" then
    bad("needs a data object")
  end
  local object = string.sub(text, place[1], place[2])
  local members = json.members(object, "the permission request")
  check(data)
  local parameters, options = members.parameters, members.options
  if parameters and string.sub(object, parameters[1], parameters[1]) ~= "{" then
    bad("has parameters that are not an object")
  end
  if json.given(data.options) and string.sub(object, options[1], options[1]) ~= "[" then
    bad("has options that are not a list")
  end
  local digest = json.given(data.args_digest) and data.args_digest
    or "sha1:" .. redis.sha1hex(parameters and string.sub(object, parameters[1], parameters[2]) or "")
  local request_id = json.given(data.request_id) and data.request_id
  local known = request_id and requests.find(s, request_id)
  if known and (known.tool ~= data.tool_name or known.digest ~= digest) then
    refuse("REQUEST_MISMATCH", "this request_id was asked for another tool or other arguments")
  end
  -- The deadline of a request that was asked before may have passed: what counts is how it ended.
  local expires = not known and deadline(s, data)
  session.check_owner(s, owner)
  settle.check_rights(s)

  session.begin(s)
  settle.due(s)
  if known then
    idempotency.keep(s, "publish", raw, "request " .. request_id)
    return requests.answer(s, requests.find(s, request_id))
  end
  if redis.call("ZCARD", s.pending) >= MOST_PENDING then
    refuse("TOO_MANY_PENDING", "the session has " .. MOST_PENDING .. " open requests")
  end
  session.set_owner(s, owner)
  session.reopen(s)
  trim_decisions(s)

  local additions = {}
  if not request_id then
    request_id = "r-" .. s.epoch .. "-" .. whole(s.seq + 1)
    additions[#additions + 1] = {"request_id", '"' .. request_id .. '"'}
  end
  if not json.given(data.expires_at) then
    additions[#additions + 1] = {"expires_at", '"' .. clock.iso(expires) .. '"'}
  end
  if not json.given(data.status) then
    additions[#additions + 1] = {"status", '"pending"'}
  end
  if not json.given(data.timestamp) then
    additions[#additions + 1] = {"timestamp", '"' .. clock.iso(s.now) .. '"'}
  end
  object = json.fill(object, members, additions)
  local before = history.envelope(s, event) .. string.sub(text, 2, place[1] - 1)
  local envelope_members = before .. object .. string.sub(text, place[2] + 1)
  local seq = whole(s.seq + 1)
  local request = {id = request_id, state = "pending", expires = expires, seq = seq}

  redis.call("HSET", s.permissions,
    "json:" .. request_id, "{" .. envelope_members,
    "data:" .. request_id, (#before + 2) .. " " .. (#before + 1 + #object),
    "state:" .. request_id, "pending",
    "digest:" .. request_id, digest,
    "tool:" .. request_id, data.tool_name,
    "asked:" .. request_id, whole(s.now),
    "expires:" .. request_id, whole(expires),
    "seq:" .. request_id, seq)
  redis.call("ZADD", s.pending, seq, request_id)
  local ms = expires - s.now + 3600 * 1000
  keep_alive(s, s.permissions, ms)
  keep_alive(s, s.pending, ms)
  keep_alive(s, s.settled, ms)
  s.open_until = math.max(s.open_until, expires)
  if not history.outlives(s, s.open_until) then
    s.alive_until = 0
  end
  s.next_due = s.next_due > 0 and math.min(s.next_due, expires) or expires
  redis.call("HSET", s.meta, "open_until", whole(s.open_until), "next_due", whole(s.next_due))
  history.append(s, "permission_request", envelope_members, "", request_id)
  idempotency.keep(s, "publish", raw, "request " .. request_id)
  return requests.answer(s, request)
end
