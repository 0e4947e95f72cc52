-- sse_version: which library this is, so that a client can tell without the right to list functions.
--
-- KEYS     none
-- Returns  {version, fingerprint of the text and its constants}
function functions.version()
  return {VERSION, FINGERPRINT}
end
