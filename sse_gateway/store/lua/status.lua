-- sse_status: where a session stands, for health. Never creates it.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- Returns  {epoch or "", top, owner or "", ended "1" or "", open requests, streams, viewers, now_ms}
function functions.status(keys)
  local s = session.open(keys)
  if not s.absent then
    session.begin(s)
    settle.due(s)
  end
  local streams, viewers = session.presence(s)
  return {s.absent and "" or s.epoch, s.seq, s.owner or "", s.ended and "1" or "",
    redis.call("ZCARD", s.pending), streams, viewers, s.now}
end
