-- sse_decision: how a request stands; settles it if its deadline has passed.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  request_id
-- Returns  {"status":"pending","request_id","expires_at","id","viewers"} or {"status":"decided","decision":{...}}
function functions.decision(keys, args)
  local s = session.open(keys)
  requests.check_id(args[1])
  return requests.answer_of(s, args[1])
end
