-- JSON is checked as strictly as browsers read it, and never re-encoded: cjson would turn [] into {}
-- and change large numbers. Where members must be added, they are spliced into the publisher's bytes.

local QUOTE, BACKSLASH, OPEN_BRACE, OPEN_BRACKET, SPACE = 34, 92, 123, 91, 32

-- One line without leading or trailing white space: raw control characters (the newlines of
-- pretty-printed JSON, or strings that no browser would parse) become spaces.
function json.tidy(text)
  -- An anchored match of one range takes a fifth of the time of a search for "%c".
  if string.match(text, "^[ -\255]*()") <= #text then
    text = string.gsub(text, "[%z\1-\31]", " ")
  end
  if string.byte(text, 1) ~= SPACE and string.byte(text, -1) ~= SPACE then
    return text
  end
  local first, last = string.find(text, "[^ ]") or 1, #text
  -- Not by a pattern: " *$" takes quadratic time on a long run of spaces in the middle.
  while last >= first and string.byte(text, last) == SPACE do
    last = last - 1
  end
  return string.sub(text, first, last)
end

-- cjson with its laxest doors shut: NaN, Infinity, hex, leading zeros and plus signs; limited depth.
local decoders = {}
local function decoder(levels)
  if not decoders[levels] then
    local instance = cjson.new()
    instance.decode_invalid_numbers(false)
    instance.decode_max_depth(levels)
    decoders[levels] = instance.decode
  end
  return decoders[levels]
end

-- What it still takes and JSON.parse does not: a point without a digit after it ("1.", "1.e5") or before it
-- ("-.5"). Sentences look alike, so strings are taken out before the second, exact look.
local function has_bare_point(text)
  local find = string.find
  if not find(text, ".", 1, true) then
    return false
  end
  if not (find(text, ".,", 1, true) or find(text, ".}", 1, true) or find(text, ".]", 1, true)
    or find(text, ". ", 1, true) or find(text, ".e", 1, true) or find(text, ".E", 1, true)
    or find(text, "-.", 1, true)) then
    return false
  end
  if find(text, "\\", 1, true) then
    text = string.gsub(text, "\\.", "")
  end
  local bare = string.gsub(text, '"[^"]*"', "")
  return find(bare, "%d%.[^%d]") ~= nil or find(bare, "-.", 1, true) ~= nil
end

-- A number of thousands of digits is valid, and many readers' end: Python refuses to convert it, and with it
-- the event. Few texts hold even forty digits in a row, so that is looked for first.
local LONGEST_NUMBER = 1000
local FORTY_DIGITS -- made at the first use, see prelude.lua
local function has_endless_number(text)
  FORTY_DIGITS = FORTY_DIGITS or string.rep("%d", 40)
  if #text <= LONGEST_NUMBER or not string.find(text, FORTY_DIGITS) then
    return false
  end
  if string.find(text, "\\", 1, true) then
    text = string.gsub(text, "\\.", "")
  end
  for digits in string.gmatch((string.gsub(text, '"[^"]*"', " ")), "%d+") do
    if #digits > LONGEST_NUMBER then
      return true
    end
  end
  return false
end

-- Return the decoded object; refuse what a browser would not parse, and what is not an object. An event may
-- have 64 levels, so what will become the data of one has `levels` 63.
function json.object(text, what, levels)
  local ok, value = pcall(decoder(levels or 64), text)
  if not ok then
    refuse("INVALID_JSON", what .. " is not valid JSON: " .. tostring(value))
  end
  if has_bare_point(text) then
    refuse("INVALID_JSON", what .. " is not valid JSON: a number has a decimal point without a digit beside it")
  end
  if has_endless_number(text) then
    refuse("INVALID_JSON", what .. " has a number of more than " .. LONGEST_NUMBER .. " digits")
  end
  if string.byte(text, 1) ~= OPEN_BRACE then
    refuse("NOT_AN_OBJECT", what .. " must be a JSON object")
  end
  return value
end

-- The scanner. It walks text that cjson has accepted, so it looks for structure only.

local function string_end(text, open)
  local at = open
  while true do
    at = string.find(text, '["\\]', at + 1)
    if string.byte(text, at) == QUOTE then
      return at
    end
    at = at + 1
  end
end

local function value_end(text, start)
  local first = string.byte(text, start)
  if first == QUOTE then
    return string_end(text, start)
  end
  if first ~= OPEN_BRACE and first ~= OPEN_BRACKET then
    return string.find(text, "[,%]} ]", start) - 1
  end
  local depth, at = 1, start
  while depth > 0 do
    at = string.find(text, '["{}%[%]]', at + 1)
    local byte = string.byte(text, at)
    if byte == QUOTE then
      at = string_end(text, at)
    elseif byte == OPEN_BRACE or byte == OPEN_BRACKET then
      depth = depth + 1
    else
      depth = depth - 1
    end
  end
  return at
end

-- Return name -> {start, end} of the values of the object that fills `text`. A name given twice is refused:
-- two readers could each take another value for what is about to be approved.
function json.members(text, what)
  local members = {}
  local at = string.find(text, '[^ ]', 2)
  while string.byte(text, at) == QUOTE do
    local close = string_end(text, at)
    local name = string.sub(text, at + 1, close - 1)
    if string.find(name, "\\", 1, true) then
      name = decoder(64)('["' .. name .. '"]')[1]
    end
    if members[name] then
      refuse("BAD_REQUEST", what .. " has a member that is given twice")
    end
    local start = string.match(text, "^ *: *()", close + 1)
    local finish = value_end(text, start)
    members[name] = {start, finish}
    at = string.match(text, "^ *,? *()", finish + 1)
  end
  return members
end

-- Put `additions` (a list of {name, json value}) into the object `text`: in place of a null, else in front.
function json.fill(text, members, additions)
  local front, nulls = {}, {}
  for _, addition in ipairs(additions) do
    local member = members[addition[1]]
    if member then
      nulls[#nulls + 1] = {member[1], member[2], addition[2]}
    else
      front[#front + 1] = '"' .. addition[1] .. '":' .. addition[2]
    end
  end
  table.sort(nulls, function(one, other) return one[1] > other[1] end)
  for _, null in ipairs(nulls) do
    text = string.sub(text, 1, null[1] - 1) .. null[3] .. string.sub(text, null[2] + 1)
  end
  if #front == 0 then
    return text
  end
  local empty = next(members) == nil
  return "{" .. table.concat(front, ",") .. (empty and "" or ",") .. string.sub(text, 2)
end

-- Null counts as absent in what a request or a decision may leave out.
function json.given(value)
  return value ~= nil and value ~= cjson.null
end

-- A JSON string of text that came as an argument (never of JSON somebody published).
function json.quote(text)
  return cjson.encode(text)
end
