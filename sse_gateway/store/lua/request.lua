-- sse_request: all that is known of one request; settles it if its deadline has passed.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  request_id
-- Returns  {state, request, asked_ms, expires_ms, decision or "", worker or "", digest}
function functions.request(keys, args)
  local s = session.open(keys)
  requests.check_id(args[1])
  if not s.absent then
    session.begin(s)
    settle.due(s)
  end
  local request = requests.find(s, args[1])
  if not request then
    refuse("UNKNOWN_REQUEST", "the session has no request " .. args[1])
  end
  return {request.state, requests.object(request), tonumber(request.asked), tonumber(request.expires),
    request.decision or "", request.worker or "", request.digest}
end
