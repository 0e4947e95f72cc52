-- sse_cancel: the asker gives a request up.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  request_id
-- ARGV[2]  why, or ""
-- ARGV[3]  "no_viewer": only if no stream that may answer is connected to any gateway now
-- Returns  as sse_decision: pending if the condition did not hold, else the decision that stands
function functions.cancel(keys, args)
  local s = session.open(keys)
  local request_id, reason, condition = args[1], args[2] or "", args[3] or ""
  requests.check_id(request_id)
  if #reason > 2000 or (condition ~= "" and condition ~= "no_viewer") then
    refuse("BAD_REQUEST", 'a reason has at most 2000 bytes, and the condition is "" or "no_viewer"')
  end
  if reason == "" then
    reason = condition ~= "" and condition or "cancelled"
  end
  settle.check_rights(s)
  session.begin(s)
  settle.due(s)
  local request = requests.find(s, request_id)
  if not request then
    refuse("UNKNOWN_REQUEST", "the session has no request " .. request_id)
  end
  if request.state == "pending" then
    local _, viewers = session.presence(s)
    if condition == "" or viewers == 0 then
      settle.without_human(s, request, "cancelled", reason, "cancel")
    end
  end
  return requests.answer(s, request)
end
