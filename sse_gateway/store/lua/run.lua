-- Call a function by name and turn whatever stopped it into an error reply. `pcall` here gives the text of
-- an error reply, and an error's table where the server does not unwrap it.
local function run(name, keys, args)
  local ok, result = pcall(functions[name], keys, args)
  if ok then
    return result
  end
  local text = type(result) == "table" and result.err or tostring(result)
  if string.find(text, "ACL failure in script", 1, true)
    or string.find(text, "The user executing the script can't", 1, true) then
    text = "SSE_NOT_PERMITTED this Redis user lacks a right (ACL LOG says which); see redis.acl"
  end
  if not string.find(text, "^[A-Z_]+ ") then
    text = "ERR " .. text
  end
  return redis.error_reply(text)
end
