-- sse_end: end the session, cancelling what is still open. Streams are told to close; a publish reopens it.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  why, or ""
-- Returns  the number of requests cancelled
--
-- Gateways learn of it by a message on the events channel, {"control":"session_ended","session_id":...}, which
-- is no event (it has no type) and proves nothing by itself: they read the session and believe meta.
functions["end"] = function(keys, args)
  local s = session.open(keys)
  local reason = args[1] or ""
  if #reason > 2000 then
    refuse("BAD_REQUEST", "a reason has at most 2000 bytes")
  end
  settle.check_rights(s)
  session.begin(s)
  settle.due(s)
  local open = redis.call("ZRANGE", s.pending, 0, -1)
  for _, request_id in ipairs(open) do
    settle.without_human(s, requests.find(s, request_id), "cancelled",
      reason ~= "" and reason or "session_ended", "cancel")
  end
  redis.call("HSET", s.meta, "ended", whole(s.now))
  redis.call("PEXPIRE", s.meta, META_MS)
  redis.pcall("PUBLISH", s.channel, '{"control":"session_ended","session_id":"' .. s.id .. '"}')
  return #open
end
