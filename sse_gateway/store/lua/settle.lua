-- Every way out of "pending". One place writes the state, the decision, the agent's stream and channel, and
-- the durable permission_cleared, so that no exit can do half of it.

local CLEARED = {
  approved = "The request was approved.",
  denied = "The request was denied.",
  expired = "Nobody answered in time.",
  cancelled = "The request was withdrawn.",
}

-- Refuse unless this user may do all that asking and settling will do.
function settle.check_rights(s)
  history.check_rights(s)
  session.check_right("HSET", s.permissions, "state", "")
  session.check_right("HDEL", s.permissions, "state")
  session.check_right("ZADD", s.pending, "0", "")
  session.check_right("ZREM", s.pending, "")
  session.check_right("ZADD", s.settled, "0", "")
  session.check_right("XADD", s.answers, "*", "decision", "")
  session.check_right("PUBLISH", s.answers_channel, "")
end

-- Settle `request` (a table from requests.find, pending) and return the decision with its time.
-- `decision` is a JSON object without decided_at; `answer` recognises the same answer when it comes again.
function settle.close(s, request, outcome, decision, answer)
  local id = request.id
  local decided = '{"decided_at":"' .. clock.iso(s.now) .. '",' .. string.sub(decision, 2)
  redis.call("HSET", s.permissions, "state:" .. id, outcome, "decision:" .. id, decided, "answer:" .. id, answer,
    "decided:" .. id, whole(s.now))
  redis.call("ZREM", s.pending, id)
  -- What is settled in the same millisecond keeps its order: a fraction of the number its event will have.
  redis.call("ZADD", s.settled, string.format("%.4f", s.now + s.seq % 4096 / 4096), id)
  if redis.call("PTTL", s.settled) < 0 then
    redis.call("PEXPIRE", s.settled, math.max(redis.call("PTTL", s.permissions), 1))
  end
  if redis.call("EXISTS", s.pending) == 0 then
    -- Nothing holds the history any more: the next append shortens its life to the usual.
    s.open_until, s.next_due, s.alive_until = 0, 0, 0
    redis.call("HSET", s.meta, "open_until", "0", "next_due", "0")
  end
  redis.call("XADD", s.answers, "MAXLEN", "~", ANSWERS_KEPT, "*", "request_id", id, "outcome", outcome,
    "decision", decided)
  redis.call("PEXPIRE", s.answers, ANSWERS_MS)
  redis.pcall("PUBLISH", s.answers_channel, decided)
  history.append(s, "permission_cleared", '"session_id":"' .. s.id
    .. '","type":"permission_cleared","timestamp":"' .. clock.iso(s.now)
    .. '","data":{"message":"' .. CLEARED[outcome] .. '",', string.sub(decided, 2) .. "}")
  request.state, request.decision, request.answer = outcome, decided, answer
  return decided
end

-- Write what is there already. A caller that repeats itself may follow with WAIT, which is about the writes of
-- its own connection: without one it is told at once that replicas have what they do not have.
function settle.touch(s, request)
  redis.call("HSET", s.permissions, "state:" .. request.id, request.state)
end

-- A decision that no human made. The digest is the asker's own, or null as in a human's decision.
function settle.without_human(s, request, outcome, reason, source)
  local digest = string.sub(request.digest, 1, 5) ~= "sha1:" and '"' .. request.digest .. '"' or "null"
  return settle.close(s, request, outcome, '{"request_id":"' .. request.id .. '","outcome":"' .. outcome
    .. '","approved":false,"reason":' .. json.quote(reason) .. ',"option_id":null,"option_kind":null,'
    .. '"updated_input":null,"args_digest":' .. digest .. ',"decided_by":null,"client_id":null,"source":"'
    .. source .. '"}', "")
end

-- Settle every request whose deadline has passed. Nearly always one comparison.
function settle.due(s)
  session.load_deadlines(s)
  if s.next_due == 0 or s.now < s.next_due then
    return
  end
  settle.check_rights(s)
  local next_due = 0
  for _, request_id in ipairs(redis.call("ZRANGE", s.pending, 0, -1)) do
    local expires = redis.call("HGET", s.permissions, "expires:" .. request_id)
    if not expires then
      redis.call("ZREM", s.pending, request_id)
    elseif tonumber(expires) <= s.now then
      settle.without_human(s, requests.find(s, request_id), "expired", "expired", "timeout")
    elseif next_due == 0 or tonumber(expires) < next_due then
      next_due = tonumber(expires)
    end
  end
  s.next_due = next_due
  redis.call("HSET", s.meta, "next_due", whole(next_due))
end
