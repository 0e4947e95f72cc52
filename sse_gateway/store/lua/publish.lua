-- sse_publish: keep an event and publish it.
--
-- KEYS[1]  the session id, bare or as <namespace>sse:{<id>}
-- ARGV[1]  the event as JSON: {"type": ..., "data": ...}
-- ARGV[2]  an idempotency key, or "": the same key within 300 s publishes once
-- ARGV[3]  the session's owner, or ""
-- Returns  the event's id, "<epoch>-<seq>"; for a permission_request what sse_ask returns
function functions.publish(keys, args)
  local raw, owner = args[1] or "", args[3]
  if #raw > MAX_EVENT_BYTES then
    refuse("TOO_LARGE", "an event may have at most " .. MAX_EVENT_BYTES .. " bytes")
  end
  local text = json.tidy(raw)
  local event = json.object(text, "the event")
  local kind = event.type
  if kind == nil then
    refuse("NO_TYPE", "the event has no type")
  end
  if type(kind) ~= "string" or #kind > 64 or not string.find(kind, "^[%w_.-]+$") then
    refuse("BAD_TYPE", "a type is 1 to 64 of the characters A-Z a-z 0-9 _ . -")
  end
  if kind == "permission_cleared" or kind == "heartbeat" then
    refuse("RESERVED_TYPE", "only the gateway makes events of type " .. kind)
  end
  if event.id ~= nil then
    refuse("HAS_ID", "the event has an id of its own; it is given one")
  end
  local is_request = kind == "permission_request"
  local s = session.open(keys, args[2], not is_request)
  if event.session_id ~= nil and event.session_id ~= s.id then
    refuse("FOREIGN_SESSION", "the event's session_id is not the session's it is published to")
  end
  session.check_owner(s, owner)
  history.check_rights(s, kind, #raw)
  local first = idempotency.find(s, "publish", raw)
  if first then
    local request_id = string.match(first, "^request (.*)$")
    return request_id and requests.answer_of(s, request_id) or first
  end
  if is_request then
    return requests.ask(s, text, event, owner, raw)
  end
  session.begin(s)
  local call_id
  if kind == "tool_status" and type(event.data) == "table" then
    call_id = type(event.data.tool_call_id) == "string" and event.data.tool_call_id
  end
  local id = history.append(s, kind, history.envelope(s, event), string.sub(text, 2), nil, call_id)
  session.set_owner(s, owner)
  session.reopen(s)
  idempotency.keep(s, "publish", raw, id)
  return id
end
