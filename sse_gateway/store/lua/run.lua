-- Call a function by name and turn whatever stopped it into an error reply. `pcall` here gives the text of
-- an error reply, and an error's table where the server does not unwrap it.
local function run(name, keys, args)
  local ok, result = pcall(functions[name], keys, args)
  if ok then
    return result
  end
  local text = type(result) == "table" and result.err or tostring(result)
  if not string.find(text, "^[A-Z_]+ ") then
    text = "ERR " .. text
  end
  return redis.error_reply(text)
end
