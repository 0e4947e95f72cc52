-- sse_ask: ask for permission.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  the request as JSON: {"tool_name": ..., "parameters": {...}, ...}
-- ARGV[2]  the session's owner, or ""
-- Returns  {"status":"pending","request_id","expires_at","id","viewers"} or {"status":"decided","decision":{...}}
function functions.ask(keys, args)
  local raw = args[1] or ""
  local s = session.open(keys)
  if #raw > MAX_EVENT_BYTES then
    refuse("TOO_LARGE", "a request may have at most " .. MAX_EVENT_BYTES .. " bytes")
  end
  local text = json.tidy(raw)
  local data = json.object(text, "the request", 63)
  return requests.ask(s, '{"type":"permission_request","data":' .. text .. "}", {data = data}, args[2], raw)
end
