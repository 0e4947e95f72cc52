-- The first result of a publish or an answer, kept under the caller's own key.

-- Return what the first call with this key returned, or nil; refuse the key for another content.
function idempotency.find(s, use, content)
  local kept = s.idempotency and redis.call("GET", s.idempotency)
  if not kept then
    return nil
  end
  local mark, result = string.match(kept, "^(%S+) (.*)$")
  if mark ~= use .. ":" .. redis.sha1hex(content) then
    refuse("IDEMPOTENCY_MISMATCH", "this idempotency key was used for something else less than 300 s ago")
  end
  return result
end

function idempotency.keep(s, use, content, result)
  if s.idempotency then
    redis.call("SET", s.idempotency, use .. ":" .. redis.sha1hex(content) .. " " .. result,
      "EX", IDEMPOTENCY_SECONDS)
  end
end
