-- sse_answer: a human's answer to a request. Exactly one answer wins.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  request_id; "" with an implicit answer whose caller saw nothing pending
-- ARGV[2]  "1" approved, "0" denied
-- ARGV[3]  the chosen option's id, or ""
-- ARGV[4]  a digest of the edited input, or ""
-- ARGV[5]  the decision as JSON, without decided_at
-- ARGV[6]  "1": the human named no request, and ARGV[1] is the only one the caller saw pending
-- ARGV[7]  with an implicit answer: how long, in ms, a request must have been on screen
-- ARGV[8]  an idempotency key, or ""
-- Returns  {verdict, decision or "", pending request ids...}; the verdict is
--          won        this answer decided the request
--          replayed   the same answer had decided it
--          lost       another answer, a cancellation or a claim came first
--          expired    the deadline came first
--          unknown    no such request
--          none, ambiguous, too_new    an implicit answer that cannot be related to one request

local function open_requests(s)
  return redis.call("ZRANGE", s.pending, 0, -1)
end

local function verdict(s, word, decision)
  return {word, decision or "", unpack(open_requests(s))}
end

-- How a settled request meets one more answer. To whoever named it, a claimed decision is closed; a repeated
-- click that named nothing is still the click that decided it.
local function compare(request, answer, implicit)
  if request.state == "expired" then
    return "expired"
  end
  local open_to_repetition = request.state ~= "cancelled" and (implicit or request.state ~= "consumed")
  return request.answer == answer and open_to_repetition and "replayed" or "lost"
end

-- Which request an answer without an id means: its id, or nil and the verdict. What was settled a moment ago
-- comes first, or a double click would answer the next request.
local function resolve(s, seen, min_display_ms)
  local last = redis.call("ZREVRANGE", s.settled, 0, 0, "WITHSCORES")
  -- The score has a fraction of a millisecond that is there for the order alone.
  if last[1] and s.now - math.floor(tonumber(last[2])) < JUST_SETTLED_MS then
    return last[1]
  end
  local open = open_requests(s)
  if #open ~= 1 then
    return nil, #open == 0 and "none" or "ambiguous"
  end
  local asked = tonumber(redis.call("HGET", s.permissions, "asked:" .. open[1]))
  if open[1] ~= seen or s.now - asked < min_display_ms then
    return nil, "too_new"
  end
  return open[1]
end

local function check_decision(text, request_id, approved)
  if #text > MAX_EVENT_BYTES then
    refuse("TOO_LARGE", "a decision may have at most " .. MAX_EVENT_BYTES .. " bytes")
  end
  local decision = json.object(text, "the decision", 63)
  if decision.decided_at ~= nil then
    refuse("BAD_REQUEST", "the decision has a decided_at of its own; Redis adds it")
  end
  if decision.request_id ~= request_id or decision.approved ~= approved
    or decision.outcome ~= (approved and "approved" or "denied") then
    refuse("BAD_REQUEST", "the decision's request_id, approved and outcome must be those of the answer")
  end
  return decision
end

function functions.answer(keys, args)
  local s = session.open(keys, args[8])
  local request_id, approved, implicit = args[1] or "", args[2] == "1", args[6] == "1"
  local answer = (args[2] or "") .. "|" .. (args[3] or "") .. "|" .. (args[4] or "")
  local text = json.tidy(args[5] or "")
  local decision
  if request_id ~= "" then
    requests.check_id(request_id)
    decision = check_decision(text, request_id, approved)
  elseif not implicit then
    refuse("BAD_REQUEST", "the answer names no request")
  end
  if args[2] ~= "1" and args[2] ~= "0" then
    refuse("BAD_REQUEST", 'approved must be "1" or "0"')
  end
  settle.check_rights(s)
  local content = answer .. "|" .. (implicit and "" or request_id)
  local first = idempotency.find(s, "answer", content)

  session.begin(s)
  settle.due(s)
  if first then
    local word, of = string.match(first, "^(%S+) (%S+)$")
    local request = requests.find(s, of)
    if request then
      settle.touch(s, request)
    end
    return verdict(s, word == "won" and "replayed" or word, request and request.decision)
  end
  if implicit then
    local found, problem = resolve(s, request_id, tonumber(args[7]) or 0)
    if not found then
      return verdict(s, problem)
    end
    request_id = found
  end
  local request = requests.find(s, request_id)
  if not request then
    return verdict(s, "unknown")
  end
  local word
  if request.state == "pending" then
    if type(decision.args_digest) == "string" and decision.args_digest ~= request.digest then
      refuse("REQUEST_MISMATCH", "the decision is about other arguments than the request's")
    end
    settle.close(s, request, approved and "approved" or "denied", text, answer)
    word = "won"
  else
    word = compare(request, answer, implicit)
    settle.touch(s, request)
  end
  idempotency.keep(s, "answer", content, word .. " " .. request_id)
  return verdict(s, word, request.decision)
end
