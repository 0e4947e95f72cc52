-- sse_claim: take a decision to act upon it. One worker gets it, and gets it again when it asks again,
-- since its first reply may have been lost.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  request_id
-- ARGV[2]  worker_id, 1 to 256 bytes, the same whenever the same worker asks
-- Returns  1 if this worker has it, else 0 (pending, expired, cancelled, or another worker's)
function functions.claim(keys, args)
  local s = session.open(keys)
  local request_id, worker = args[1], args[2]
  requests.check_id(request_id)
  if not worker or worker == "" or #worker > 256 then
    refuse("BAD_REQUEST", "a worker_id has 1 to 256 bytes")
  end
  session.begin(s)
  settle.due(s)
  local request = requests.find(s, request_id)
  if not request then
    refuse("UNKNOWN_REQUEST", "the session has no request " .. request_id)
  end
  if request.state == "consumed" then
    if request.worker ~= worker then
      return 0
    end
    settle.touch(s, request)
    return 1
  end
  if request.state ~= "approved" and request.state ~= "denied" then
    return 0
  end
  redis.call("HSET", s.permissions, "state:" .. request_id, "consumed", "worker:" .. request_id, worker)
  return 1
end
