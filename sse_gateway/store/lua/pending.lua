-- sse_pending: the open requests and the recent decisions; settles what is due first.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- Returns  {now_ms, last_settled_ms, its request_id or "",
--           {request_id, request, asked_ms, expires_ms, seq, ...} in the order asked,
--           {request_id, state, decision, ...} the newest first, at most 50}
function functions.pending(keys)
  local s = session.open(keys)
  if not s.absent then
    session.begin(s)
    settle.due(s)
  end
  local open = {}
  for _, request_id in ipairs(redis.call("ZRANGE", s.pending, 0, -1)) do
    local request = requests.find(s, request_id)
    if request then
      for _, value in ipairs({request_id, requests.object(request), tonumber(request.asked),
        tonumber(request.expires), tonumber(request.seq)}) do
        open[#open + 1] = value
      end
    end
  end
  local recent = {}
  local settled = redis.call("ZREVRANGE", s.settled, 0, RECENT_SHOWN - 1, "WITHSCORES")
  for at = 1, #settled, 2 do
    local found = redis.call("HMGET", s.permissions, "state:" .. settled[at], "decision:" .. settled[at])
    if found[1] then
      recent[#recent + 1] = settled[at]
      recent[#recent + 1] = found[1]
      recent[#recent + 1] = found[2]
    end
  end
  return {s.now, tonumber(settled[2]) or 0, settled[1] or "", open, recent}
end
