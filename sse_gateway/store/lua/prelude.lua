-- Constants, refusals, and the tables that everything below hangs on.
--
-- Lua allows a chunk 200 locals and a function 60 upvalues, hence few tables instead of many locals.
-- Only functions are defined while the library loads: `cjson`, `math` and most others do not exist then.

@CONSTANTS@

local DAY_SECONDS = 86400
local ANSWERS_MS = "600000"          -- life of the stream that agents read decisions from
local ANSWERS_KEPT = 1000
local IDEMPOTENCY_SECONDS = 300
local DECISION_KEPT_MS = 3600 * 1000
local DECISIONS_TRIMMED = 20         -- removed by one ask at most, so that no ask is slow
local LONGEST_DEADLINE_MS = 23 * 3600 * 1000
local MOST_PENDING = 100
local RECENT_SHOWN = 50
local JUST_SETTLED_MS = 2000         -- an answer without an id within this time repeats the last one
local TOOL_CALLS_KEPT = 50
local PRESENCE_MS = 3 * BEAT_SECONDS * 1000

-- The modules, one file each, and the functions by name: function(keys, args).
local clock, json, session, history, idempotency, requests, settle, functions = {}, {}, {}, {}, {}, {}, {}, {}

-- Stop with an error reply. Used before anything was written, or where what was written stands on its own.
local function refuse(code, sentence)
  error({err = "SSE_" .. code .. " " .. sentence})
end

-- Numbers beyond 1e14 print as 1e+14 unless told otherwise ("%.0f" takes twice the time).
local function whole(number)
  return string.format("%d", number)
end
