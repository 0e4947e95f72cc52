-- sse_beat: one gateway says how many streams of the session it holds. Never creates the session.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  gateway_id
-- ARGV[2]  its streams; 0 takes the gateway out
-- ARGV[3]  how many of them may answer
-- Returns  {streams, viewers} over all gateways
function functions.beat(keys, args)
  local s = session.find(keys)
  local gateway, count, viewers = args[1] or "", tonumber(args[2]), tonumber(args[3])
  if gateway == "" or #gateway > 128 or not count or not viewers then
    refuse("BAD_REQUEST", "a beat has a gateway_id, a number of streams and a number of viewers")
  end
  local others, others_viewers, gone = session.presence(s, gateway)
  if count > 0 then
    -- The first to write is HSET, whose own refusal is as good as a question.
    session.check_right("PEXPIRE", s.streams, "1")
    session.check_right("PEXPIRE", s.meta, "1")
  else
    count, viewers = 0, 0
    gone[#gone + 1] = gateway
  end
  if #gone > 0 then
    session.check_right("HDEL", s.streams, gateway)
  end
  if count > 0 then
    redis.call("HSET", s.streams, gateway, whole(count) .. ":" .. whole(viewers) .. ":" .. whole(s.now))
    redis.call("PEXPIRE", s.streams, PRESENCE_MS)
    redis.call("PEXPIRE", s.meta, META_MS)
  end
  if #gone > 0 then
    redis.call("HDEL", s.streams, unpack(gone))
  end
  return {others + count, others_viewers + viewers}
end
