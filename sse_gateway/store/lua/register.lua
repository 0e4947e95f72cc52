-- Register every function under its name in this namespace. What a human answers must get through on a full
-- server, so only publishing and asking are refused for want of memory.
local function register(name, ...)
  redis.register_function({
    function_name = NAMESPACE .. "sse_" .. name,
    callback = function(keys, args) return run(name, keys, args) end,
    flags = {...},
  })
end

register("publish")
register("ask")
register("answer", "allow-oom")
register("decision", "allow-oom")
register("claim", "allow-oom")
register("cancel", "allow-oom")
register("end", "allow-oom")
register("pending", "allow-oom")
register("request", "allow-oom")
register("read", "allow-oom")
register("status", "allow-oom")
register("beat", "allow-oom")
register("version", "no-writes")
